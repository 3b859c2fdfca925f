"""Live runs in a calibration: what closed-loop attackers send depends on the detector, and some kinds have no replay.

Such sessions run live under every configuration that is tried: in the process that tries it, against a model that is
asked through a function. That process needs no further actor for it, so a search never waits for resources that it
holds itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mifsim.data import load_data
from mifsim.defense import DetectorConfig, NoDefenseConfig, Outcome
from mifsim.errors import RunError, StudyError
from mifsim.server.client_session import SessionRow
from mifsim.server.client_specs import ClientSpec, client_specs
from mifsim.server.environment import Environment
from mifsim.server.shard_run import NullSink, Reply, run_clients
from mifsim.statistics import queries_until_stopped
from mifsim.study import Filter, Study
from tuning.replay import replay
from tuning.splits import split_clients
from tuning.tracedata import SPLITS, Floats, TraceSet

if TYPE_CHECKING:
    from mifsim.data.base import DataSet
    from mifsim.victims import Victim

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Ask = Callable[[Images, Labels], tuple[Images, Images]]
"""Answers a batch: see `mifsim.victims.engine.BatchedModel.predict`."""

CONFIGS_AT_A_TIME = 32
"""That run side by side, their queries in common batches: memory does not grow with their number."""
CLIENTS_AT_A_TIME = 512
_ONE_FILTER = Filter(name="live", config=NoDefenseConfig())
"""Clients are listed once; which filter they run under is replaced afterwards."""


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


def _without_leakage(study: Study) -> Study:
    return study.model_copy(update={"leakage": study.leakage.model_copy(update={"enabled": False})})


def runs_live(study: Study) -> bool:
    """Return whether anything of a study's calibration runs live in its trials."""
    return (
        any(attack.closed_loop for attack in study.attacks) or not study.tuning.search_space.config_class.replayable()
    )


def longest_budget(study: Study) -> int:
    """Return the largest budget of an attacker, of either kind: the scale of queries to block."""
    return max(attack.budget_queries for attack in study.attacks)


def clients_of(study: Study, name: str, classes: int) -> tuple[ClientSpec, ...]:
    """Return the closed-loop attackers of one of `SPLITS`, a spec each, in the study's order.

    Raises
    ------
    StudyError
        Where an attack has none in that split.
    """
    alone = closed_loop(study).model_copy(update={"filters": [_ONE_FILTER]})
    found = list(client_specs(alone, classes))
    names = [alone.attacks[spec.population].name for spec in found]
    splits = split_clients(
        [spec.client_id for spec in found],
        [(attack, spec.target) for attack, spec in zip(names, found, strict=True)],
        study.tuning.splits,
        study.seed,
    )
    selected = tuple(spec for spec, its in zip(found, splits.tolist(), strict=True) if SPLITS[its] == name)
    for number, attack in enumerate(alone.attacks):
        if not any(spec.population == number for spec in selected):
            raise StudyError(
                f"{study.name}: {attack.name!r}: of its {names.count(attack.name)} clients none falls into the {name} "
                "split; give it more trials, or the split a larger share in [tuning.splits]"
            )
    return selected


class LiveReplay:
    """Says what a configuration does to recorded sessions: by replay, or live where its kind has none.

    Parameters
    ----------
    study : Study
        Its open-loop clients are run; see `open_loop`.
    ask : callable
        The model.
    data : DataSet, optional
        The study's; None: it is loaded.
    """

    def __init__(self, study: Study, ask: Ask, data: DataSet | None = None) -> None:
        self._study = _without_leakage(open_loop(study))
        self._ask = ask
        self._data = load_data(study.data) if data is None else data
        alone = self._study.model_copy(update={"filters": [_ONE_FILTER]})
        self._specs = {spec.client_id: spec for spec in client_specs(alone, len(self._data.class_names))}
        self._known: dict[DetectorConfig, dict[str, tuple[int, float]]] = {}

    def __call__(self, traces: TraceSet, config: DetectorConfig) -> Outcome:
        """Return what a configuration does to each session of `traces`; one that was run before is not run again.

        Raises
        ------
        RunError
            Where a client fails.
        """
        if config.replayable():
            return replay(traces, config)
        known = self._known.setdefault(config, {})
        clients = traces.clients.tolist()
        missing = [self._specs[client] for client in clients if client not in known]
        for start in range(0, len(missing), CLIENTS_AT_A_TIME):
            rows = run_live(self._study, [config], missing[start : start + CLIENTS_AT_A_TIME], self._ask, self._data)
            limit = config.detector().limit
            for row in rows:
                nearness = min(1.0, (row.count + 1) / limit)
                known[row.spec.client_id] = (row.queries_to_block or 0, nearness)
        return Outcome(
            np.array([known[client][0] for client in clients], dtype=np.int64),
            np.array([known[client][1] for client in clients], dtype=np.float64),
        )


class LiveAttackers:
    """Runs the closed-loop attackers of the search split under any configuration.

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
        self._known: dict[DetectorConfig, Floats] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the attacks, in the order of `queries`."""
        return tuple(attack.name for attack in self._study.attacks)

    def queries(
        self, configs: Sequence[DetectorConfig], on_progress: Callable[[int], None] = lambda done: None
    ) -> Floats:
        """Return the restricted mean queries to block of each attack under each configuration; shape (J, L).

        A client counts as blocked when it gave up, at the sum of its sessions' queries; one that continues in
        another session until its budget ends counts as its budget.

        Parameters
        ----------
        configs : sequence of DetectorConfig
            J of them; one that was asked for before is not run again.
        on_progress : callable
            Called with how many are done.

        Raises
        ------
        RunError
            Where a client fails.
        """
        new = [config for config in dict.fromkeys(configs) if config not in self._known]
        for start in range(0, len(new), CONFIGS_AT_A_TIME):
            on_progress(start)
            some = new[start : start + CONFIGS_AT_A_TIME]
            rows = run_live(self._study, some, self._specs, self._ask, self._data)
            self._known.update(zip(some, self._means(rows, len(some)), strict=True))
        return np.stack([self._known[config] for config in configs])

    def _means(self, rows: Sequence[SessionRow], configs: int) -> Floats:
        of_client: dict[ClientSpec, list[SessionRow]] = defaultdict(list)
        for row in rows:
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


def run_live(
    study: Study, configs: Sequence[DetectorConfig], specs: Sequence[ClientSpec], ask: Ask, data: DataSet
) -> list[SessionRow]:
    """Run some clients of a study under each configuration, in this process, and return their sessions.

    Raises
    ------
    RunError
        Where a client fails.
    """
    filters = [Filter(name=f"s{number}", config=config) for number, config in enumerate(configs)]
    # No file is written: `run` is never touched.
    environment = Environment(study.model_copy(update={"filters": filters}), Path(), {}, data)
    wanted = [replace(spec, filter=number) for spec in specs for number in range(len(filters))]
    rows: list[SessionRow] = []
    steps = run_clients(wanted, environment, rows, NullSink())
    try:
        batch = next(steps)
        while True:
            batch = steps.send(Reply(*ask(batch.images, batch.gradient_of)))
    except StopIteration:
        pass
    for row in rows:
        if row.outcome == "failed":
            raise RunError(f"{study.name}: client {row.spec.client_id} failed: {row.error}")
    return rows


def model_here(study: Study, data: DataSet, victim: Victim) -> Ask:
    """Return the victim, in this process."""
    from mifsim.victims.engine import engine_from_bytes

    engine = engine_from_bytes(
        victim.model_bytes(), data.shape, len(data.class_names), victim.logits, study.server.batch_size
    )
    return engine.predict
