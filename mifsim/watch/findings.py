"""What a watch found, in words; the command line and the page show the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from mifsim.watch.evidence import share_bounds
from mifsim.watch.monitor import BLOCKED, CHANGE, COVERAGE, NEAR_MISSES, WATCHES, Levels, Monitor, Paths
from mifsim.watch.promise import Promise
from mifsim.watch.sessions import Cut, WatchedSession

if TYPE_CHECKING:  # the log needs pyarrow
    from mifsim.watch.log import WatchedLog

_CHUNK = 50_000

MEANINGS = {
    BLOCKED: "More sessions are blocked than promised. Either there are attackers, or the promise does not hold for "
    "this traffic: look at the blocked sessions.",
    CHANGE: "Since some time, more sessions are blocked than promised. Either attackers have begun, or the traffic has "
    "changed: look at the sessions blocked last.",
    NEAR_MISSES: "More sessions come near a block than in the calibration. The traffic is not like that of any "
    "certified workload; honest sessions may soon be blocked.",
    COVERAGE: "So many sessions are outside of what was certified that they alone could exceed the promised share.",
}
"""What an alarm of each watch means."""


@dataclass(frozen=True)
class Row:
    """One watch.

    Attributes
    ----------
    name : str
    question : str
        What it tests.
    evidence, threshold : str
        The present evidence, and that of an alarm.
    alarm : str
        The start of the session at which it raised an alarm; empty if it did not.
    meaning : str
        What an alarm means.
    """

    name: str
    question: str
    evidence: str
    threshold: str
    alarm: str
    meaning: str


@dataclass(frozen=True)
class Findings:
    """The result of a watch over a log.

    Attributes
    ----------
    monitor : Monitor
    promise : Promise
    log : WatchedLog
    paths : Paths
        The evidence after each decided session.
    """

    monitor: Monitor
    promise: Promise
    log: WatchedLog
    paths: Paths

    @classmethod
    def of(cls, log: WatchedLog, promise: Promise, levels: Levels, cut: Cut) -> Findings:
        """Return what the sessions of a log tell."""
        monitor = Monitor(levels, cut, promise.baseline)
        parts = [  # some at a time, because of the memory
            monitor.add(log.sessions[i : i + _CHUNK], log.outside[i : i + _CHUNK])
            for i in range(0, max(1, len(log.sessions)), _CHUNK)
        ]
        return cls(monitor, promise, log, Paths(*(np.concatenate(path) for path in zip(*parts, strict=True))))

    @property
    def alarms(self) -> list[str]:
        """The watches that raised an alarm."""
        return [name for name in WATCHES if name in self.monitor.alarms]

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        if not self.monitor.sessions:
            return "No verdict: no session is old enough to be decided."
        if self.alarms:
            return f"Alarm: {', '.join(self.alarms)}."
        return "No alarm: these sessions give no evidence against the promise."

    def share(self) -> str:
        """Return the blocked share with its bounds."""
        monitor, levels = self.monitor, self.monitor.levels
        low, high = (float(bound) for bound in share_bounds(monitor.sessions, monitor.blocked, levels.delta))
        share = monitor.blocked / monitor.sessions if monitor.sessions else 0.0
        return (
            f"{monitor.blocked:,} of {monitor.sessions:,} sessions ({percent(share)}) were blocked within "
            f"{duration(monitor.cut.age)} of their start{self._queries()}; promised: at most {percent(levels.limit)}. "
            f"The share is at least {percent(low)} with {percent(1 - levels.delta)} confidence, and at most "
            f"{percent(high)} with the same confidence, at all times"
        )

    def _queries(self) -> str:
        queries = self.monitor.cut.queries
        return "" if math.isinf(queries) else f" and their first {queries:,.0f} queries"

    def rows(self) -> list[Row]:
        """Return the watches."""
        monitor, levels = self.monitor, self.monitor.levels
        evidence, thresholds = monitor.evidence(), levels.thresholds()
        questions = {
            BLOCKED: f"is the share of blocked sessions above {percent(levels.limit)}?",
            CHANGE: f"has it been above {percent(levels.limit)} since some session?",
            NEAR_MISSES: "do more sessions come near a block than in the calibration?",
            COVERAGE: "are sessions outside of what was certified?",
        }
        found = []
        for name in WATCHES:
            if name == NEAR_MISSES and monitor.baseline is None:
                continue
            share = name == COVERAGE
            found.append(
                Row(
                    name,
                    questions[name],
                    f"{percent(evidence[name])} of sessions" if share else number(evidence[name]),
                    f"above {percent(levels.limit)}" if share else number(thresholds[name]),
                    f"since {moment(monitor.alarms[name])}" if name in monitor.alarms else "",
                    MEANINGS[name],
                )
            )
        return found

    def rows_used(self) -> list[str]:
        """Return how the rows of the log were used."""
        log, monitor = self.log, self.monitor
        lines = [f"{log.rows:,} rows; the last one is of {moment(log.end)}"]
        if monitor.sessions:
            lines.append(
                f"{monitor.sessions:,} decided sessions, which started from {moment(monitor.first)} to "
                f"{moment(monitor.last)}"
            )
        if log.other_filters:
            found = ", ".join(f"{count:,} of {digest}" for digest, count in log.other_filters.items())
            lines.append(f"left out: rows of other configurations ({found})")
        if log.unanswered:
            lines.append(f"left out: {log.unanswered:,} queries without an answer, which the guard has undone")
        if log.undecided:
            lines.append(
                f"not counted yet: {log.undecided:,} sessions that started less than {duration(monitor.cut.age)} "
                "before the last row"
            )
        if log.without_start:
            lines.append(
                f"left out: {log.without_start:,} sessions whose first query is not in the log; among them, only long "
                "ones are seen"
            )
        if log.incomplete:
            lines.append(
                f"incomplete: {log.incomplete:,} sessions of which a row is missing; if it is the one that blocks, the "
                "session counts as not blocked"
            )
        return lines

    def covered(self) -> list[str]:
        """Return what the certificate does not cover."""
        coverage, promise = self.log.coverage, self.promise
        lines = []
        if math.isinf(promise.longest):
            lines.append("the filter does not state its longest certified session (calibrate again)")
        for count, text in (
            (coverage.longer, f"have more than {promise.longest:,.0f} queries, the longest certified session"),
            (coverage.other_shape, f"have images that arrived in another shape than {_shape(promise.shape)}"),
            (coverage.other_format, f"have images in a lossy format, certified for {promise.transport!r}"),
        ):
            if count:
                lines.append(f"{count:,} sessions ({percent(coverage.share(count))}) {text}")
        return lines or ["all sessions are within what was certified: lengths, shapes and formats"]

    def assumptions(self) -> list[str]:
        """Return what the guarantees of the watch assume."""
        levels = self.monitor.levels
        lines = [
            f"The promise: each session is blocked with probability at most {percent(levels.limit)}, whatever happened "
            "in earlier ones. It follows from the guarantee of the filter if all sessions are honest, like those of "
            "the certified workloads in any mix, and different clients do not depend on each other. Every session of a "
            "client that returns counts.",
            f"If the promise holds, blocked and near-misses each ever raise an alarm with probability at most "
            f"{percent(levels.delta)}, however often anybody looks. change raises a false alarm after "
            f"{levels.run_length:,.0f} sessions on average, or later. The guarantee of the filter itself can be wrong, "
            "with the probability that it states.",
            "Sessions count in the order of their start, when their age has passed. A session counts as blocked only "
            "if the log has the query that blocked it, so lost rows hide blocks and raise no false alarm.",
            "An alarm stays, and changes nothing by itself. A blocked session may be honest or an attack: the watch "
            "does not know.",
        ]
        if self.monitor.baseline is None:
            lines.append(
                "Near misses are not watched: the filter does not state those of its calibration (calibrate again with "
                "this version)."
            )
        return lines


def _shape(shape: Sequence[int] | None) -> str:
    return "x".join(map(str, shape or ()))


def moment(seconds: float) -> str:
    """Return a time in UTC, to the minute.

    Examples
    --------
    >>> moment(0)
    '1970-01-01 00:00 UTC'
    """
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str:
    """Return a duration in its largest unit.

    Examples
    --------
    >>> duration(3600), duration(90)
    ('1h', '90s')
    """
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def percent(share: float) -> str:
    """Return a share in percent.

    Examples
    --------
    >>> percent(0.01), percent(0.01523)
    ('1%', '1.52%')
    """
    return f"{100 * share:.3g}%"


def number(logarithm: float) -> str:
    """Return a positive number, given by its logarithm, with three digits.

    Examples
    --------
    >>> number(math.log(20)), number(math.log(10_000)), number(2000.0), number(-math.inf)
    ('20', '10,000', '4e868', '0')
    """
    if math.isinf(logarithm):
        return "0"
    if abs(logarithm) < math.log(1e6):
        value = math.exp(logarithm)
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    power = logarithm / math.log(10)
    return f"{10 ** (power - math.floor(power)):.0f}e{math.floor(power)}"


def starts_of(sessions: Sequence[WatchedSession]) -> list[str]:
    """Return the starts of sessions as ISO 8601 texts in UTC, for a chart."""
    return [f"{datetime.fromtimestamp(session.start, UTC):%Y-%m-%dT%H:%M:%S}" for session in sessions]
