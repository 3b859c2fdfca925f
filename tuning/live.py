"""Live runs for closed-loop attackers and for kinds of detectors without a replay.

The queries of a closed-loop attacker depend on the detector, so they cannot be replayed. Such sessions run live under
every configuration, in the process of the trial, and query the model through a function. The process starts no actors,
so a search never waits for resources that it holds itself.
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
from mifsim.server.client_specs import ClientSpec, client_specs
from mifsim.server.environment import Environment
from mifsim.server.session_rows import SessionRow
from mifsim.server.shard_run import NullSink, Reply, run_clients
from mifsim.statistics import queries_until_stopped
from mifsim.study import Filter, Study
from mifsim.study.splitting import SPLITS, split_clients
from tuning.replay import replay
from tuning.tracedata import Floats, TraceSet

if TYPE_CHECKING:
    from mifsim.data.base import DataSet
    from mifsim.victims import Victim

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
PredictFunction = Callable[[Images, Labels], tuple[Images, Images]]
"""Function that answers a batch of queries; see `mifsim.victims.engines.base.Engine.predict`."""

CONFIGS_AT_A_TIME = 32
"""Number of configurations that run concurrently and share batches; it bounds the memory."""
CLIENTS_AT_A_TIME = 512
"""Number of clients that run concurrently under one configuration; it bounds the memory."""
_ONE_FILTER = Filter(name="live", config=NoDefenseConfig())
"""Placeholder filter, so that each client is listed once; `run_live` replaces the filter's index."""


def open_loop(study: Study) -> Study:
    """Return the study without its closed-loop attackers; it can be recorded and replayed."""
    return study.model_copy(update={"attacks": [attack for attack in study.attacks if not attack.closed_loop]})


def closed_loop(study: Study) -> Study:
    """Return the study with its closed-loop attackers alone, without users and without leakage scores."""
    attacks = [attack for attack in study.attacks if attack.closed_loop]
    return _without_leakage(study.model_copy(update={"attacks": attacks, "users": []}))


def _without_leakage(study: Study) -> Study:
    return study.model_copy(update={"leakage": study.leakage.model_copy(update={"enabled": False})})


def runs_live(study: Study) -> bool:
    """Return whether some clients of a study run live in its trials."""
    return any(attack.closed_loop for attack in study.attacks) or not study.tuning.search_space.replayable


def longest_budget(study: Study) -> int:
    """Return the largest query budget of the study's attackers, open-loop or closed-loop."""
    return max(attack.budget_queries for attack in study.attacks)


def clients_of(study: Study, name: str, classes: int) -> tuple[ClientSpec, ...]:
    """Return the specs of the closed-loop attackers in one split, in the study's order.

    Parameters
    ----------
    study : Study
        The study.
    name : str
        One of `SPLITS`.
    classes : int
        Number of classes of the model.

    Returns
    -------
    tuple of ClientSpec
        One spec for each client.

    Raises
    ------
    StudyError
        If an attack has no client in the split.
    """
    attackers = closed_loop(study).model_copy(update={"filters": [_ONE_FILTER]})
    specs = list(client_specs(attackers, classes))
    names = [attackers.attacks[spec.population].name for spec in specs]
    splits = split_clients(
        [spec.client_id for spec in specs],
        [(attack, spec.target) for attack, spec in zip(names, specs, strict=True)],
        study.tuning.splits,
        study.seed,
    )
    selected = tuple(spec for spec, index in zip(specs, splits.tolist(), strict=True) if SPLITS[index] == name)
    for number, attack in enumerate(attackers.attacks):
        if not any(spec.population == number for spec in selected):
            raise StudyError(
                f"{study.name}: {attack.name!r}: none of its {names.count(attack.name)} clients is in the {name} "
                f"split; increase its trials, or the share tuning.splits.{name}"
            )
    return selected


class LiveReplay:
    """Returns the outcomes of a configuration: by replay, or by a live run for a kind without a replay.

    Parameters
    ----------
    study : Study
        The study; its open-loop clients are run (see `open_loop`).
    predict : callable
        The model; see `PredictFunction`.
    data : DataSet, optional
        The study's data. None: it is loaded.
    """

    def __init__(self, study: Study, predict: PredictFunction, data: DataSet | None = None) -> None:
        self._study = _without_leakage(open_loop(study))
        self._predict = predict
        self._data = load_data(study.data, again=True) if data is None else data
        single = self._study.model_copy(update={"filters": [_ONE_FILTER]})
        self._specs = {spec.client_id: spec for spec in client_specs(single, len(self._data.class_names))}
        self._outcomes: dict[DetectorConfig, dict[str, list[tuple[int, float]]]] = {}

    def __call__(self, traces: TraceSet, config: DetectorConfig) -> Outcome:
        """Return the outcome of a configuration for each session; sessions that were run before are not run again.

        Raises
        ------
        RunError
            If a client fails.
        """
        if config.replayable():
            return replay(traces, config)
        outcomes = self._outcomes.setdefault(config, {})
        clients = traces.clients.tolist()
        missing = [self._specs[client] for client in dict.fromkeys(clients) if client not in outcomes]
        for start in range(0, len(missing), CLIENTS_AT_A_TIME):
            specs = missing[start : start + CLIENTS_AT_A_TIME]
            rows = run_live(self._study, [config], specs, self._predict, self._data)
            limit = config.detector().limit
            for row in rows:
                nearness = min(1.0, (row.count + 1) / limit)
                outcomes.setdefault(row.spec.client_id, []).append((row.queries_to_block or 0, nearness))
        found = [
            outcomes[client][number - 1]
            for client, number in zip(clients, traces.session_numbers.tolist(), strict=True)
        ]
        return Outcome(
            np.array([blocked_at for blocked_at, _ in found], dtype=np.int64),
            np.array([nearness for _, nearness in found], dtype=np.float64),
        )


class LiveAttackers:
    """Runs the L closed-loop attacks of the search split under any configuration.

    Parameters
    ----------
    study : Study
        The study.
    predict : callable
        The model; see `PredictFunction`.
    data : DataSet, optional
        The study's data. None: it is loaded.

    Raises
    ------
    StudyError
        If an attack has no client in the search split.
    """

    def __init__(self, study: Study, predict: PredictFunction, data: DataSet | None = None) -> None:
        self._study = closed_loop(study)
        self._predict = predict
        self._data = load_data(study.data, again=True) if data is None else data
        self._specs = clients_of(study, "search", len(self._data.class_names))
        self._queries: dict[DetectorConfig, Floats] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the attacks, in the column order of `queries`."""
        return tuple(attack.name for attack in self._study.attacks)

    def queries(
        self, configs: Sequence[DetectorConfig], on_progress: Callable[[int], None] = lambda done: None
    ) -> Floats:
        """Return the restricted mean queries to block of each attack under each configuration.

        A client that gives up after a block counts as the queries of all its sessions together. A client that continues
        in new sessions until its budget is spent counts as its budget.

        Parameters
        ----------
        configs : sequence of DetectorConfig
            The J configurations. Those that were run before are not run again.
        on_progress : callable
            Called with the number of finished configurations.

        Returns
        -------
        ndarray of float64, shape (J, L)
            Queries, at least 1.

        Raises
        ------
        RunError
            If a client fails.
        """
        new = [config for config in dict.fromkeys(configs) if config not in self._queries]
        for start in range(0, len(new), CONFIGS_AT_A_TIME):
            on_progress(start)
            selected = new[start : start + CONFIGS_AT_A_TIME]
            rows = run_live(self._study, selected, self._specs, self._predict, self._data)
            self._queries.update(zip(selected, self._means(rows, len(selected)), strict=True))
        return np.stack([self._queries[config] for config in configs])

    def _means(self, rows: Sequence[SessionRow], configs: int) -> Floats:
        by_client: dict[ClientSpec, list[SessionRow]] = defaultdict(list)
        for row in rows:
            by_client[row.spec].append(row)
        attacks = self._study.attacks
        total = np.zeros((configs, len(attacks)))
        count = np.zeros(len(attacks))
        for spec, sessions in by_client.items():
            budget = attacks[spec.population].budget_queries
            in_order = sorted(sessions, key=lambda row: row.last_query)
            stopped = queries_until_stopped([(row.outcome, row.queries) for row in in_order], budget)
            total[spec.filter, spec.population] += budget if stopped is None else stopped
            count[spec.population] += spec.filter == 0
        return total / count


def run_live(
    study: Study,
    configs: Sequence[DetectorConfig],
    specs: Sequence[ClientSpec],
    predict: PredictFunction,
    data: DataSet,
) -> list[SessionRow]:
    """Run clients under each configuration in this process; return their sessions.

    Parameters
    ----------
    study : Study
        The study from which the clients are.
    configs : sequence of DetectorConfig
        The configurations.
    specs : sequence of ClientSpec
        The clients; each runs under each configuration.
    predict : callable
        The model; see `PredictFunction`.
    data : DataSet
        The study's data.

    Returns
    -------
    list of SessionRow
        The sessions; ``row.spec.filter`` is the index of the configuration.

    Raises
    ------
    RunError
        If a client fails.
    """
    filters = [Filter(name=f"s{number}", config=config) for number, config in enumerate(configs)]
    # The run folder is a placeholder: nothing is written to it.
    live = study.model_copy(update={"filters": filters})
    environment = Environment(live, Path(), {}, data, separate_images=study.tuning.separate_images)
    under_each = [replace(spec, filter=number) for spec in specs for number in range(len(filters))]
    rows: list[SessionRow] = []
    steps = run_clients(under_each, environment, rows, NullSink())
    try:
        batch = next(steps)
        while True:
            batch = steps.send(Reply(*predict(batch.images, batch.gradient_of)))
    except StopIteration:
        pass
    for row in rows:
        if row.outcome == "failed":
            raise RunError(f"{study.name}: client {row.spec.client_id} failed: {row.error}")
    return rows


def model_here(study: Study, data: DataSet, victim: Victim) -> PredictFunction:
    """Load the victim in this process; return its prediction function."""
    return victim.load(data.shape, len(data.class_names), study.server.batch_size).predict
