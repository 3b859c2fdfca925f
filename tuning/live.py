"""Closed-loop attackers in a calibration: what they send depends on the filter, so no trace of them can be replayed.

They run live instead, under every setting that is tried: in the process that tries it, against a model that is asked
through a function. That process needs no further actor for it, so a search never waits for resources it holds itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mifsim.data import load_data
from mifsim.defense import FilterConfig
from mifsim.errors import RunError, StudyError
from mifsim.server.client_session import SessionRow
from mifsim.server.client_specs import ClientSpec, specs
from mifsim.server.environment import Environment
from mifsim.server.shard_run import Nowhere, Reply, run_clients
from mifsim.statistics import queries_until_stopped
from mifsim.study import Filter, Study
from tuning.splits import split
from tuning.tracedata import SPLITS, Floats

if TYPE_CHECKING:
    from mifsim.data.base import DataSet
    from mifsim.victims import Victim

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Ask = Callable[[Images, Labels], tuple[Images, Images]]
"""Answers a batch: see `mifsim.victims.engine.BatchedModel.predict`."""

CONFIGS_AT_A_TIME = 32
"""That run side by side, their queries in common batches: memory does not grow with their number."""


def open_loop(study: Study) -> Study:
    """Return the study without its closed-loop attackers: what is recorded and replayed."""
    return study.model_copy(update={"attacks": [attack for attack in study.attacks if not attack.closed_loop]})


def closed_loop(study: Study) -> Study:
    """Return the study with its closed-loop attackers alone, and nothing kept of what they guess."""
    return study.model_copy(
        update={
            "attacks": [attack for attack in study.attacks if attack.closed_loop],
            "users": [],
            "leakage": study.leakage.model_copy(update={"enabled": False}),
        }
    )


def longest_budget(study: Study) -> int:
    """Return the largest budget of an attacker, of either kind: the scale of queries to block."""
    return max(attack.budget_queries for attack in study.attacks)


def clients_of(study: Study, part: str, classes: int) -> tuple[ClientSpec, ...]:
    """Return the closed-loop attackers of one of `PARTS`, a ticket each, in the study's order.

    Raises
    ------
    StudyError
        Where an attack has none in that part.
    """
    alone = closed_loop(study).model_copy(update={"filters": [Filter(name="live", config=None)]})
    found = list(specs(alone, classes))
    names = [alone.attacks[spec.population].name for spec in found]
    parts = split(
        [spec.client_id for spec in found],
        [(name, spec.target) for name, spec in zip(names, found, strict=True)],
        study.tuning.splits,
        study.seed,
    )
    selected = tuple(spec for spec, its in zip(found, parts.tolist(), strict=True) if SPLITS[its] == part)
    for number, attack in enumerate(alone.attacks):
        if not any(spec.population == number for spec in selected):
            raise StudyError(
                f"{study.name}: {attack.name!r}: of its {names.count(attack.name)} clients none falls into the {part} "
                "part; give it more trials, or the part a larger share in [tuning.splits]"
            )
    return selected


class LiveAttackers:
    """Runs the closed-loop attackers of the search part under any setting.

    Parameters
    ----------
    study : Study
    ask : callable
        The model.
    data : DataSet, optional
        The study's; None: it is loaded.
    """

    def __init__(self, study: Study, ask: Ask, data: DataSet | None = None) -> None:
        self._study = closed_loop(study)
        self._ask = ask
        self._data = load_data(study.data) if data is None else data
        self._specs = clients_of(study, "search", len(self._data.class_names))
        self._known: dict[FilterConfig, Floats] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the attacks, in the order of `queries`."""
        return tuple(attack.name for attack in self._study.attacks)

    def queries(self, configs: Sequence[FilterConfig], watch: Callable[[int], None] = lambda done: None) -> Floats:
        """Return the restricted mean queries to block of each attack under each setting; shape (J, L).

        A client counts as blocked when it gave up, at the sum of its sessions' queries; one that goes on in
        another session until its budget ends counts as its budget.

        Parameters
        ----------
        settings : sequence of FilterConfig
            J of them; one that was asked for before is not run again.
        watch : callable
            Called with how many are done.

        Raises
        ------
        RunError
            Where a client fails.
        """
        new = [config for config in dict.fromkeys(configs) if config not in self._known]
        for start in range(0, len(new), CONFIGS_AT_A_TIME):
            watch(start)
            some = new[start : start + CONFIGS_AT_A_TIME]
            self._known.update(zip(some, self._run(some), strict=True))
        return np.stack([self._known[config] for config in configs])

    def _run(self, configs: Sequence[FilterConfig]) -> Floats:
        filters = [Filter(name=f"s{number}", config=config) for number, config in enumerate(configs)]
        # No file is written: `run` is never touched.
        environment = Environment(self._study.model_copy(update={"filters": filters}), Path(), {}, self._data)
        wanted = [
            ClientSpec(one.population, number, one.target, one.trial, one.client_id)
            for one in self._specs
            for number in range(len(filters))
        ]
        rows: list[SessionRow] = []
        steps = run_clients(wanted, environment, rows, Nowhere())
        try:
            batch = next(steps)
            while True:
                batch = steps.send(Reply(*self._ask(batch.images, batch.gradient_of)))
        except StopIteration:
            pass
        return self._means(rows, len(configs))

    def _means(self, rows: Sequence[SessionRow], configs: int) -> Floats:
        of_client: dict[ClientSpec, list[SessionRow]] = defaultdict(list)
        for row in rows:
            if row.outcome == "failed":
                raise RunError(f"{self._study.name}: client {row.spec.client_id} failed: {row.error}")
            of_client[row.spec].append(row)
        attacks = self._study.attacks
        total = np.zeros((configs, len(attacks)))
        count = np.zeros(len(attacks))
        for spec, sessions in of_client.items():
            budget = attacks[spec.population].budget_queries
            stopped = queries_until_stopped([(row.outcome, row.queries) for row in sessions], budget)
            total[spec.filter, spec.population] += budget if stopped is None else stopped
            count[spec.population] += spec.filter == 0
        return total / count


def model_here(study: Study, data: DataSet, victim: Victim) -> Ask:
    """Return the victim, in this process."""
    from mifsim.victims.engine import engine_from_bytes

    engine = engine_from_bytes(
        victim.model_bytes(), data.shape, len(data.class_names), victim.logits, study.server.batch_size
    )
    return engine.predict
