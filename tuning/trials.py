"""Trials: the evaluation of one configuration, and the journal that stores the results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import TracebackType

import numpy as np

from mifsim.cache import atomic_write
from mifsim.defense import DetectorConfig
from mifsim.defense.kinds import read_cells, read_config
from mifsim.defense.space import SearchSpace
from mifsim.errors import RunError
from mifsim.pareto import non_dominated
from mifsim.statistics import clopper_pearson
from mifsim.study import Tuning
from mifsim.tables.records import TableWriter, read_file
from mifsim.tables.storage import Folder, RemotePath
from tuning.objectives import NO_LIVE, Evaluation, evaluate, objectives
from tuning.params import config_columns, param_schema
from tuning.replay import Replay, replay, replay_swept
from tuning.tracedata import Floats, TraceSet

FIRST_SHARE = 4
"""A trial first replays all attack sessions and one honest session in `FIRST_SHARE`."""
PRUNE_CONFIDENCE = 0.998
"""Confidence of the interval on these sessions that must lie above the false-positive budget to prune a trial."""


@dataclass(frozen=True)
class TrialResult:
    """Result of a trial.

    Attributes
    ----------
    queries : float
        Restricted mean queries to block, at least 1.
    false_positive_rate : float
        False-positive rate of the worst workload, in [0, 1].
    leak : float or None
        Mean leakage at block, in [0, 1]; None if it is not an objective.
    sessions : int
        Number of replayed sessions; a pruned trial replays fewer than all.
    estimates : tuple of tuples
        Surrogate estimates: the non-dominated values of the swept parameters, all other parameters as in the trial.
        Each is ``(*swept values, false-positive rate, queries[, leak])``, computed on the sessions that a trial replays
        first. Empty for a kind without swept parameters.
    """

    queries: float
    false_positive_rate: float
    leak: float | None
    sessions: int
    estimates: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Trial:
    """A finished trial: one row of the table ``trials``.

    Attributes
    ----------
    number : int
        Number of the trial, from 0.
    config : DetectorConfig
        The configuration.
    result : TrialResult
        Its result.
    elapsed_seconds : float
        Seconds from the start of the search to the end of the trial, without interruptions.
    """

    number: int
    config: DetectorConfig
    result: TrialResult
    elapsed_seconds: float


def journal_mismatch(finished: Trial, proposed: DetectorConfig) -> str | None:
    """Return an error message if a finished trial is not of the configuration that is proposed again; else None."""
    if finished.config == proposed:
        return None
    return (
        f"trial {finished.number} of the journal is {finished.config}, but {proposed} is proposed now: the run was "
        "started with another version of Optuna, and its search cannot be resumed"
    )


class TrialEvaluator:
    """Evaluates configurations on the search split; first on a fixed share of its honest sessions.

    Parameters
    ----------
    traces : TraceSet
        The search split.
    tuning : Tuning
        The section ``[tuning]`` of the study.
    live : callable, optional
        Runs the closed-loop attackers under a configuration. It returns the restricted mean queries to block of each
        attack, shape (L,). See `tuning.live`.
    replay : callable
        Returns the outcome of a configuration for each session.
    """

    def __init__(
        self,
        traces: TraceSet,
        tuning: Tuning,
        live: Callable[[DetectorConfig], Floats] = lambda config: NO_LIVE,
        replay: Replay = replay,
    ) -> None:
        self._live = live
        self._replay = replay
        self._all = traces if tuning.leakage else replace(traces, leak=None)
        # Every FIRST_SHARE-th client of each workload is a fair sample: their order does not depend on outcomes.
        first = traces.is_attack.copy()
        client_of = np.cumsum(traces.session_numbers == 1)
        for group in traces.honest_groups:
            # All sessions of a client, because a detector may keep its state over them.
            clients = client_of[np.flatnonzero((traces.group == group) & (traces.session_numbers == 1))]
            first |= np.isin(client_of, clients[::FIRST_SHARE])
        self._first = self._all.subset(first)
        self._tuning = tuning

    def evaluate(self, config: DetectorConfig) -> TrialResult:
        """Return the result of a configuration; if it is pruned, from the first share of the sessions alone."""
        live = self._live(config)
        first = self._evaluate(self._first, config, live)
        result = self._result(first, self._first)
        if result.false_positive_rate <= self._tuning.false_positive_budget or not self._pruned(first):
            result = self._result(self._evaluate(self._all, config, live), self._all)
        return replace(result, estimates=self._estimates(config, live))

    def _evaluate(self, traces: TraceSet, config: DetectorConfig, live: Floats) -> Evaluation:
        return evaluate(traces, config, self._tuning.attack, live, self._replay)

    @staticmethod
    def _result(evaluation: Evaluation, traces: TraceSet) -> TrialResult:
        return TrialResult(evaluation.queries, evaluation.false_positive_rate, evaluation.leak, traces.sessions)

    def _estimates(self, config: DetectorConfig, live: Floats) -> tuple[tuple[float, ...], ...]:
        """Return surrogate estimates for all values of the swept parameters, in one pass over the traces.

        The estimates assume that closed-loop attackers need as many queries under each value as in this trial.
        """
        tuning, bounds = self._tuning, self._tuning.search_space.bounds
        if not config.swept or not config.replayable() or self._first.by_client(config):
            return ()
        lows = [int(bounds[name][0]) for name in config.swept]
        sums = replay_swept(self._first, config, {name: int(bounds[name][1]) for name in config.swept})
        table = objectives(self._first, sums, tuning.attack, leakage=tuning.leakage, live=live)
        table = table[(slice(None), *(slice(low - 1, None) for low in lows))]
        inside = np.flatnonzero(table[0] <= tuning.false_positive_budget)
        points = table.reshape(len(table), -1)[:, inside].T
        kept = non_dominated(points)
        places = np.column_stack(np.unravel_index(inside[kept], table.shape[1:])).tolist()
        return tuple(
            (*(low + step for low, step in zip(lows, place, strict=True)), *point)
            for place, point in zip(places, points[kept].tolist(), strict=True)
        )

    def _pruned(self, first: Evaluation) -> bool:
        """Return whether a workload's rate exceeds the budget with `PRUNE_CONFIDENCE`."""
        sums = first.totals
        return any(
            clopper_pearson(int(sums.blocked[g]), int(sums.sessions[g]), PRUNE_CONFIDENCE)[0]
            > self._tuning.false_positive_budget
            for g in self._first.honest_groups
        )


class Journal:
    """Storage for the finished trials of a run; each trial is written as soon as it is finished.

    While the search runs, each trial is a line of ``trials/journal.jsonl``. A killed process leaves at most one
    incomplete line, the last. An object store cannot append to a file, so each trial there is a file of its own,
    ``trials/journal-NNNNNN.jsonl``. At the end of the search, all trials become one Parquet file,
    ``trials/trials.parquet``. On a local path, `append` works only inside a ``with`` block.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    facts : mapping of str to str
        Metadata of the Parquet file.
    space : SearchSpace
        The search space; its parameters are columns of the table.
    """

    def __init__(self, run: Folder, facts: Mapping[str, str], space: SearchSpace) -> None:
        self._lines = run / "trials" / "journal.jsonl"
        self._table = run / "trials" / "trials.parquet"
        self._facts = facts
        self._space = space

    def __enter__(self) -> Journal:
        if isinstance(self._lines, RemotePath):
            return self
        self._lines.parent.mkdir(parents=True, exist_ok=True)
        # Remove an incomplete last line: the next trial would be appended to it.
        before, newline, _ = self._lines.read_bytes().rpartition(b"\n") if self._lines.is_file() else (b"", b"", b"")
        self._file = self._lines.open("ab")
        self._file.truncate(len(before) + len(newline))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(self._lines, RemotePath):
            self._file.close()

    def append(self, trial: Trial) -> None:
        """Write a finished trial; on a local path it is on disk when this returns.

        Raises
        ------
        OSError
            If the trial cannot be written; the error names the file.
        """
        row = {
            "number": trial.number,
            "config": trial.config.to_dict(),
            "result": asdict(trial.result),
            "elapsed_seconds": trial.elapsed_seconds,
        }
        line = json.dumps(row).encode() + b"\n"
        if isinstance(self._lines, RemotePath):
            with atomic_write(self._lines.parent / f"journal-{trial.number:06d}.jsonl") as temporary:
                temporary.write_bytes(line)
            return
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            # The error of a full disk does not name the file.
            raise OSError(error.errno, error.strerror, str(self._lines)) from error

    def read(self) -> list[Trial]:
        """Return the finished trials in the order of their numbers.

        Raises
        ------
        RunError
            If a line of the journal is not a trial, or the table cannot be read.
        """
        stored = self._from_table() if self._table.is_file() else self._from_lines()
        trials = {trial.number: trial for trial in stored}
        return [trials[number] for number in sorted(trials)]

    def finish(self, trials: Sequence[Trial]) -> None:
        """Write the trials to the Parquet file, and delete the journal's lines."""
        with TableWriter(self._table, "trials", self._facts, param_schema("trials", self._space)) as writer:
            writer.write(
                {
                    "trial": [trial.number for trial in trials],
                    **config_columns([trial.config for trial in trials], self._space),
                    "queries_to_block": [trial.result.queries for trial in trials],
                    "false_positive_rate": [trial.result.false_positive_rate for trial in trials],
                    "leakage_at_block": [trial.result.leak for trial in trials],
                    "sessions_replayed": [trial.result.sessions for trial in trials],
                    "elapsed_seconds": [trial.elapsed_seconds for trial in trials],
                }
            )
        for file in self._files():
            file.unlink(missing_ok=True)

    def _from_table(self) -> Iterator[Trial]:
        for row in read_file(self._table).to_pylist():
            yield Trial(
                row["trial"],
                read_cells(row["kind"], row["config"]),
                TrialResult(
                    row["queries_to_block"],
                    row["false_positive_rate"],
                    row["leakage_at_block"],
                    row["sessions_replayed"],
                ),
                row["elapsed_seconds"],
            )

    def _files(self) -> list[Folder]:
        if isinstance(self._lines, RemotePath):
            return list(self._lines.parent.glob("journal-*.jsonl"))
        return [self._lines] if self._lines.is_file() else []

    def _from_lines(self) -> Iterator[Trial]:
        for file in self._files():
            for number, line in enumerate(file.read_bytes().split(b"\n")[:-1]):
                try:
                    row = json.loads(line)
                    estimates = tuple(tuple(estimate) for estimate in row["result"].pop("estimates"))
                    config, result = read_config(row["config"]), TrialResult(**row["result"], estimates=estimates)
                    yield Trial(row["number"], config, result, row["elapsed_seconds"])
                except (ValueError, KeyError, TypeError) as error:
                    raise RunError(f"{file}: line {number + 1} is not a trial: {error}") from None
