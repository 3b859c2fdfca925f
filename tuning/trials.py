"""A trial: one configuration evaluated by replay; and the journal that loses none."""

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
"""A trial sees all attacks and one honest session in so many first."""
PRUNE_CONFIDENCE = 0.998
"""How sure it must be from those that a configuration is above the budget before it is pruned."""


@dataclass(frozen=True)
class TrialResult:
    """What a trial found.

    Attributes
    ----------
    queries : float
        Restricted mean queries to block.
    false_positive_rate : float
        Of the worst workload.
    leak : float or None
        Mean leakage at block, where it is an objective.
    sessions : int
        How many were replayed.
    hints : tuple of tuples
        With the same thresholds, form and rule: the buffer sizes and limits that no other beats, as
        ``(n_b, l_sp, false-positive rate, queries[, leak])``, from the sessions that a trial sees first.
    """

    queries: float
    false_positive_rate: float
    leak: float | None
    sessions: int
    estimates: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Trial:
    """A finished trial: a row of ``trials``."""

    number: int
    config: DetectorConfig
    result: TrialResult
    elapsed_seconds: float


class TrialEvaluator:
    """Evaluates configurations on the search split, a fixed share of its honest sessions first.

    Parameters
    ----------
    traces : TraceSet
        The search split.
    tuning : Tuning
    live : callable, optional
        Runs the closed-loop attackers: from a configuration to the restricted mean queries to block of each attack,
        shape (L,). See `tuning.live`.
    replay : callable
        Says what a configuration does to each session.
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
        # Every so-many-th session of each workload: they are ordered by client, not by what became of them.
        first = traces.is_attack.copy()
        for group in traces.honest_groups:
            first[np.flatnonzero(traces.group == group)[::FIRST_SHARE]] = True
        self._first = self._all.subset(first)
        self._tuning = tuning

    def evaluate(self, config: DetectorConfig) -> TrialResult:
        """Return what a configuration does; from the first share alone where that prunes it."""
        live = self._live(config)
        few = self._evaluate(self._first, config, live)
        found = self._result(few, self._first)
        if found.false_positive_rate <= self._tuning.false_positive_budget or not self._pruned(few):
            found = self._result(self._evaluate(self._all, config, live), self._all)
        return replace(found, estimates=self._estimates(config, live))

    def _evaluate(self, traces: TraceSet, config: DetectorConfig, live: Floats) -> Evaluation:
        return evaluate(traces, config, self._tuning.attack, live, self._replay)

    @staticmethod
    def _result(found: Evaluation, traces: TraceSet) -> TrialResult:
        return TrialResult(found.queries, found.false_positive_rate, found.leak, traces.sessions)

    def _estimates(self, config: DetectorConfig, live: Floats) -> tuple[tuple[float, ...], ...]:
        """Look at all values of the swept parameters at once: that is one pass over the traces.

        What closed-loop attackers would do is not known of them all: they are taken to do as they did in this trial.
        """
        tuning, bounds = self._tuning, self._tuning.search_space.bounds
        if not config.swept or not config.replayable():
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

    def _pruned(self, few: Evaluation) -> bool:
        """Return whether some workload's rate is surely above the budget."""
        sums = few.totals
        return any(
            clopper_pearson(int(sums.blocked[g]), int(sums.sessions[g]), PRUNE_CONFIDENCE)[0]
            > self._tuning.false_positive_budget
            for g in self._first.honest_groups
        )


class Journal:
    """The finished trials of a run, each on disk as soon as it is finished.

    While the search runs they are lines of ``trials/journal.jsonl``; a process that is killed leaves at most a
    torn last line. An object store cannot append: there each is a file, ``trials/journal-NNNNNN.jsonl``. When the
    search is over they become one Parquet file.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    facts : mapping of str to str
        Into the Parquet file's metadata.
    space : SearchSpace
        Whose parameters are columns of the table.
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
        # A torn line would swallow the next one.
        whole = self._lines.read_bytes().rpartition(b"\n") if self._lines.is_file() else (b"", b"", b"")
        self._file = self._lines.open("ab")
        self._file.truncate(len(whole[0]) + len(whole[1]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(self._lines, RemotePath):
            self._file.close()

    def append(self, trial: Trial) -> None:
        """Write a finished trial down."""
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
        except OSError as error:  # a full disk, of which the message does not say where
            raise OSError(error.errno, error.strerror, str(self._lines)) from error

    def read(self) -> list[Trial]:
        """Return the finished trials in the order of their numbers."""
        found = {trial.number: trial for trial in (self._from_table() if self._table.is_file() else self._from_lines())}
        return [found[number] for number in sorted(found)]

    def finish(self, trials: Sequence[Trial]) -> None:
        """Turn the journal into a table."""
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
