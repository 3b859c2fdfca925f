"""The few statistics that every table here needs, exact where an exact form exists.

The session is the unit of all of them: queries inside one session are not independent.
"""

from __future__ import annotations

import bisect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]

_MOST_SESSIONS = 10_000_000


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) two-sided interval for a proportion.

    Parameters
    ----------
    successes, trials : int
        With ``0 <= successes <= trials``. Without trials nothing is known: (0, 1).
    confidence : float
        In (0, 1).

    Returns
    -------
    tuple of float
        Lower and upper end.

    References
    ----------
    Clopper and Pearson, Biometrika 26 (1934).

    Examples
    --------
    >>> low, high = clopper_pearson(0, 299)
    >>> low, round(high, 4)
    (0.0, 0.0123)
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"need 0 <= successes <= trials, got {successes} of {trials}")
    tail = _tail(confidence)
    low = special.betaincinv(successes, trials - successes + 1, tail) if successes > 0 else 0.0
    high = special.betainccinv(successes + 1, trials - successes, tail) if successes < trials else 1.0
    return float(low), float(high)


@dataclass(frozen=True)
class Survival:
    """A Kaplan-Meier estimate of the chance that a session is still open.

    Attributes
    ----------
    queries : ndarray of shape (n,)
        Numbers of queries at which a session ended (blocked or censored), ascending; 0 first.
    open : ndarray of shape (n,)
        The share still open after that query: the curve is flat from one entry to the next.
    low, high : ndarray of shape (n,)
        Pointwise band (log-log transform, as R's survfit with ``conf.type="log-log"``). That transform is
        undefined where all or none are open; there the band has the exact binomial end for those at risk.
    """

    queries: Floats
    open: Floats
    low: Floats
    high: Floats

    @property
    def median(self) -> float | None:
        """First query after which at most half are open, None where that never comes."""
        below = np.flatnonzero(self.open <= 0.5 + 1e-12)  # the curve is a product, half of it may be off by a rounding
        return float(self.queries[below[0]]) if below.size else None

    def restricted_mean(self, limit: float) -> float:
        """Mean queries to block, each counted as `limit` at most: the area under the curve up to `limit`.

        Where observation ended before `limit` for all, the last share still open is taken to stay so.
        """
        inside = self.queries < limit
        edges = np.append(self.queries[inside], limit)
        return float(np.sum(np.diff(edges) * self.open[inside]))


def kaplan_meier(queries: npt.ArrayLike, blocked: npt.ArrayLike, confidence: float = 0.95) -> Survival:
    """Kaplan-Meier estimate for queries to block.

    Parameters
    ----------
    queries : array_like of shape (n,)
        Queries until the block, or until observation ended; at least 0.
    blocked : array_like of bool, shape (n,)
        False where observation ended first (right-censored). A session censored at the query at which another
        is blocked counts as at risk there.
    confidence : float
        Of the pointwise band, in (0, 1).

    Returns
    -------
    Survival

    References
    ----------
    Kaplan and Meier, JASA 53 (1958); Greenwood's variance on the log-log scale, as in Kalbfleisch and
    Prentice, *The Statistical Analysis of Failure Time Data*, section 1.4.

    Examples
    --------
    >>> curve = kaplan_meier([4, 6, 6, 10], [True, True, False, False])
    >>> curve.queries.tolist(), curve.open.tolist()
    ([0.0, 4.0, 6.0, 10.0], [1.0, 0.75, 0.5, 0.5])
    >>> curve.median, curve.restricted_mean(10)
    (6.0, 7.5)
    """
    from scipy import stats  # takes longer to load than the rest of what this module needs

    times = np.asarray(queries, dtype=np.float64)
    events = np.asarray(blocked, dtype=bool)
    if times.shape != events.shape or times.ndim != 1:
        raise ValueError(f"queries and blocked must be one-dimensional and alike, got {times.shape} and {events.shape}")
    if times.size == 0:
        raise ValueError("no session: a survival curve needs at least one")
    if not (np.isfinite(times) & (times >= 0)).all():
        raise ValueError("queries must be finite and at least 0")
    tail = _tail(confidence)
    curve = stats.ecdf(stats.CensoredData(uncensored=times[events], right=times[~events])).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # at shares 0 and 1, whose band is set below
        band = curve.confidence_interval(confidence, method="log-log")
    columns = [curve.quantiles, curve.probabilities, band.low.probabilities, band.high.probabilities]
    if columns[0][0] > 0:
        columns = [np.insert(column, 0, first) for column, first in zip(columns, (0, 1, 1, 1), strict=True)]
    steps, open_, low, high = columns
    at_risk = times.size - np.searchsorted(np.sort(times), steps)
    # None blocked yet: at worst what as many successes in as many trials leave possible.
    everyone = open_ == 1
    low[everyone], high[everyone] = tail ** (1 / at_risk[everyone]), 1.0
    # All blocked: the band stays where it was; where it never was, all fell at one query.
    if open_[-1] == 0:
        before = high[-2] if high.size > 1 else 1.0
        low[-1], high[-1] = 0.0, min(before, 1 - tail ** (1 / at_risk[-1]))
    return Survival(queries=steps, open=open_, low=low, high=high)


def _tail(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return (1 - confidence) / 2


class SessionsNeeded(NamedTuple):
    """How many sessions of a workload would certify a setting.

    Attributes
    ----------
    same_count : int
        If no more of them were blocked than were.
    same_rate : int or None
        If the share of blocked ones stayed what it was; None where that is at the limit or above, or so close
        to it that ten million sessions could not tell.
    """

    same_count: int
    same_rate: int | None


def sessions_needed(blocked: int, sessions: int, limit: float, delta: float) -> SessionsNeeded:
    """Return with how many sessions, in all, a workload would pass at level `delta`.

    Parameters
    ----------
    blocked, sessions : int
        What was seen: ``0 <= blocked <= sessions``.
    limit, delta : float
        Both in (0, 1).

    Examples
    --------
    >>> sessions_needed(0, 100, limit=0.01, delta=0.05)
    SessionsNeeded(same_count=299, same_rate=299)
    >>> sessions_needed(1, 200, limit=0.01, delta=0.05)
    SessionsNeeded(same_count=473, same_rate=1182)
    """
    if not 0 <= blocked <= sessions:
        raise ValueError(f"need 0 <= blocked <= sessions, got {blocked} of {sessions}")

    def least(count: int, among: range) -> int:
        # The binomial tail as a beta integral: scipy's own takes no more than 2**31 trials.
        def passes(n: int) -> bool:
            return bool(special.betaincc(count + 1, n - count, limit) <= delta)

        return among[bisect.bisect_left(among, True, key=passes)]

    same_count = least(blocked, range(blocked, 2**40))
    if blocked == 0:
        return SessionsNeeded(same_count, same_count)
    # At the same rate, rounded up, c are blocked of more than (c - 1) * sessions / blocked and at most
    # c * sessions / blocked sessions. Look for the first c that passes with the most it may have.
    count = 1
    while blocked < limit * sessions and count * sessions // blocked <= _MOST_SESSIONS:
        counts = np.arange(count, 2 * count)
        passed = special.bdtr(counts, counts * sessions // blocked, limit) <= delta
        if passed.any():
            first = int(counts[passed.argmax()])
            among = range((first - 1) * sessions // blocked + 1, first * sessions // blocked + 1)
            return SessionsNeeded(same_count, least(first, among))
        count *= 2
    return SessionsNeeded(same_count, None)


def queries_until_stopped(sessions: Sequence[tuple[str, int]], budget: int) -> int | None:
    """Return after how many queries, over all its sessions, a client was stopped; None where it never was.

    A client that was refused and opened another session was not stopped by that: only when it gave up, in its last
    session. Nor was one whose budget ended with a refusal: it was through anyway.

    Parameters
    ----------
    sessions : sequence of (outcome, queries)
        Of one client under one filter, in the order in which they were opened; at least one.
    budget : int
        Queries that the client had in all.

    Examples
    --------
    >>> queries_until_stopped([("blocked", 30), ("blocked", 12)], budget=100)
    42
    >>> queries_until_stopped([("blocked", 30), ("exhausted", 70)], budget=100) is None
    True
    """
    spent = sum(queries for _, queries in sessions)
    if sessions[-1][0] != "blocked" or (len(sessions) > 1 and spent >= budget):
        return None
    return spent
