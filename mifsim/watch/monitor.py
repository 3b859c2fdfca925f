"""The state of a watch: a few numbers, which sessions are added to in the order of their start."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.watch.evidence import ODDS_RATIOS, Floats, change_statistics, log_change, log_evidence
from mifsim.watch.near_misses import BINS, TESTED, Baseline, log_near_miss_evidence, near_misses
from mifsim.watch.sessions import Cut, WatchedSession

Ints = npt.NDArray[np.int64]

BLOCKED: Final = "blocked"
CHANGE: Final = "change"
NEAR_MISSES: Final = "near-misses"
COVERAGE: Final = "coverage"
WATCHES: Final = (BLOCKED, CHANGE, NEAR_MISSES, COVERAGE)
"""Names of the watches."""

RUN_LENGTH = 10_000
"""Default of `Levels.run_length`."""

VERSION = 1


@dataclass(frozen=True)
class Levels:
    """What is watched, and how rarely false alarms may occur.

    Attributes
    ----------
    limit : float
        The promised share of blocked sessions, in (0, 1): the largest limit of a workload.
    delta : float
        Probability of a false alarm ever, of each of the watches ``blocked`` and ``near-misses``, in (0, 1).
    run_length : float
        Least mean number of sessions until a false alarm of the watch ``change``.
    """

    limit: float
    delta: float = 0.05
    run_length: float = RUN_LENGTH

    def thresholds(self) -> dict[str, float]:
        """Return the evidence at which each watch raises an alarm, as logarithms; for coverage, see `Monitor`."""
        return {
            BLOCKED: -math.log(self.delta),
            CHANGE: math.log(self.run_length),
            NEAR_MISSES: -math.log(self.delta / 2),
        }


class Paths(NamedTuple):
    """The logarithm of the evidence of each watch after each of n added sessions; each has shape (n,)."""

    blocked: Floats
    change: Floats
    near_misses: Floats


@dataclass
class Monitor:
    """The watches of one filter.

    Attributes
    ----------
    levels : Levels
    cut : Cut
    baseline : Baseline or None
        None: the calibration did not record near misses, so that they are not watched.
    sessions, blocked : int
        Numbers of decided sessions, and of blocked ones among them.
    outside : int
        Number of decided sessions that the certificate does not cover.
    histogram : list of int
        Number of decided sessions in each bin of nearness.
    alarms : dict of str to float
        For each watch that raised an alarm, the start of the session at which it did. An alarm stays, except that of
        coverage, which is a statement about all sessions so far: more than the limit are outside. It needs
        ``1 / limit`` sessions, as one of them is more than the limit of fewer.
    first, last : float
        Start of the first and of the last decided session; NaN if there is none.
    """

    levels: Levels
    cut: Cut
    baseline: Baseline | None = None
    sessions: int = 0
    blocked: int = 0
    outside: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)
    alarms: dict[str, float] = field(default_factory=dict)
    first: float = math.nan
    last: float = math.nan
    _statistics: Floats = field(default_factory=lambda: np.full(len(ODDS_RATIOS), -np.inf))
    _bounds: Floats = field(init=False)

    def __post_init__(self) -> None:
        ones = np.ones(len(TESTED))  # evidence against the bound 1 never rises
        self._bounds = ones if self.baseline is None else self.baseline.bounds(self.levels.delta / 2)

    @property
    def bounds(self) -> Floats:
        """The bounds of the near misses in `mifsim.watch.near_misses.TESTED`."""
        return self._bounds

    def add(self, decided: Sequence[WatchedSession], outside: Sequence[bool] | None = None) -> Paths:
        """Add sessions whose outcome is decided.

        Parameters
        ----------
        decided : sequence of WatchedSession
            In the order of their start, and none before those that were added earlier; see `Cut.decided`.
        outside : sequence of bool, optional
            Whether the certificate does not cover each session; by default, because it has too many queries.

        Returns
        -------
        Paths
        """
        if not decided:
            return Paths(np.empty(0), np.empty(0), np.empty(0))
        if outside is None:
            outside = [session.queries > self.cut.queries for session in decided]
        hits = np.array([self.cut.blocked(session) for session in decided], np.int64)
        bins = np.array([self.cut.nearness(session) for session in decided], np.int64)
        numbers = self.sessions + np.arange(1, len(decided) + 1)
        statistics = change_statistics(hits, self.levels.limit, self._statistics)
        earlier = near_misses(np.arange(BINS)) * np.array(self.histogram)[:, None]
        paths = Paths(
            log_evidence(numbers, self.blocked + np.cumsum(hits), self.levels.limit),
            log_change(statistics),
            log_near_miss_evidence(numbers, earlier.sum(axis=0) + np.cumsum(near_misses(bins), axis=0), self._bounds),
        )
        starts = [session.start for session in decided]
        thresholds = self.levels.thresholds()
        for name, path in zip((BLOCKED, CHANGE, NEAR_MISSES), paths, strict=True):
            self._raise_alarm(name, path >= thresholds[name], starts)
        self._judge_coverage(self.outside + np.cumsum(np.array(outside, np.int64)), numbers, starts)
        self._statistics = statistics[-1]
        self.sessions, self.blocked = int(numbers[-1]), self.blocked + int(hits.sum())
        self.outside += int(np.sum(outside))
        self.histogram = (np.array(self.histogram) + np.bincount(bins, minlength=BINS)).tolist()
        self.first, self.last = starts[0] if math.isnan(self.first) else self.first, starts[-1]
        return paths

    def _raise_alarm(self, name: str, reached: Any, starts: Sequence[float]) -> None:
        if name not in self.alarms and reached.any():
            self.alarms[name] = starts[int(reached.argmax())]

    def _judge_coverage(self, outside: Ints, numbers: Ints, starts: Sequence[float]) -> None:
        """Raise or end the alarm of coverage; `outside` and `numbers` count the sessions so far."""
        allowed = self.levels.limit * numbers
        exceeded = (outside > allowed) & (allowed >= 1)
        if not exceeded[-1]:
            self.alarms.pop(COVERAGE, None)
        elif not exceeded.all():
            self.alarms[COVERAGE] = starts[int(np.flatnonzero(~exceeded)[-1]) + 1]
        else:
            self.alarms.setdefault(COVERAGE, starts[0])

    def evidence(self) -> dict[str, float]:
        """Return the present evidence of each watch, as a logarithm; for coverage, the share outside it."""
        found = near_misses(np.arange(BINS)).T @ np.array(self.histogram)
        return {
            BLOCKED: float(log_evidence(self.sessions, self.blocked, self.levels.limit)),
            CHANGE: float(log_change(self._statistics)),
            NEAR_MISSES: float(log_near_miss_evidence(self.sessions, found, self._bounds)),
            COVERAGE: self.outside / self.sessions if self.sessions else 0.0,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values."""
        return {
            "version": VERSION,
            "sessions": self.sessions,
            "blocked": self.blocked,
            "outside": self.outside,
            "histogram": self.histogram,
            "alarms": self.alarms,
            "first": None if math.isnan(self.first) else self.first,
            "last": None if math.isnan(self.last) else self.last,
            "statistics": [None if np.isneginf(value) else float(value) for value in self._statistics],
        }

    def continue_from(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of `to_dict` of a watch with the same levels and cut.

        Raises
        ------
        ValueError
            If it is of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"version = {state.get('version')!r}: not supported by this mifsim (expected {VERSION})")
        self.sessions, self.blocked, self.outside = (int(state[key]) for key in ("sessions", "blocked", "outside"))
        self.histogram, self.alarms = list(state["histogram"]), dict(state["alarms"])
        self.first, self.last = (math.nan if state[key] is None else state[key] for key in ("first", "last"))
        self._statistics = np.array([-np.inf if value is None else value for value in state["statistics"]])
