"""Survival curves of sessions: the number of queries until a block, if observation may end before."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mifsim.statistics.intervals import tail_of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Survival:
    """A Kaplan-Meier estimate of the probability that a session is still open, by number of queries.

    Attributes
    ----------
    queries : ndarray of shape (n,)
        Numbers of queries at which a session ended (blocked or censored), ascending; the first is 0.
    open : ndarray of shape (n,)
        The share still open after that query; the curve is constant between entries.
    low, high : ndarray of shape (n,)
        Pointwise confidence band (log-log transform, as in R's survfit with ``conf.type="log-log"``). The transform is
        undefined where all sessions or none are open; the band there is the exact binomial bound for the sessions at
        risk.
    """

    queries: Floats
    open: Floats
    low: Floats
    high: Floats

    @property
    def median(self) -> float | None:
        """The first query after which at most half of the sessions are open; None if more than half stay open."""
        below = np.flatnonzero(self.open <= 0.5 + 1e-12)  # tolerance for rounding errors of the product
        return float(self.queries[below[0]]) if below.size else None

    def restricted_mean(self, limit: float) -> float:
        """Return the restricted mean of the queries to block: the area under the curve up to `limit`.

        Each session counts as at most `limit` queries. If observation ended before `limit`, the last value of the curve
        is extended to `limit`.
        """
        inside = self.queries < limit
        edges = np.append(self.queries[inside], limit)
        return float(np.sum(np.diff(edges) * self.open[inside]))


def kaplan_meier(queries: npt.ArrayLike, blocked: npt.ArrayLike, confidence: float = 0.95) -> Survival:
    """Return the Kaplan-Meier estimate of the queries to block.

    Parameters
    ----------
    queries : array_like of shape (n,)
        Number of queries until the block, or until observation ended; at least 0.
    blocked : array_like of bool, shape (n,)
        False if observation ended before a block (right-censored). A session censored at a query at which another one
        is blocked counts as at risk at that query.
    confidence : float
        Confidence level of the pointwise band, in (0, 1).

    Returns
    -------
    Survival
        The curve and its confidence band.

    Raises
    ------
    ValueError
        If there is no session, the shapes differ, or a value is out of range.

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
    from scipy import stats  # imported here because it is slow to import

    times = np.asarray(queries, dtype=np.float64)
    events = np.asarray(blocked, dtype=bool)
    if times.shape != events.shape or times.ndim != 1:
        raise ValueError(f"queries and blocked must be 1-D and of equal length, got {times.shape} and {events.shape}")
    if times.size == 0:
        raise ValueError("no sessions: a survival curve needs at least one")
    if not (np.isfinite(times) & (times >= 0)).all():
        raise ValueError("queries must be finite and at least 0")
    tail = tail_of(confidence)
    curve = stats.ecdf(stats.CensoredData(uncensored=times[events], right=times[~events])).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # at shares 0 and 1, whose band is set below
        band = curve.confidence_interval(confidence, method="log-log")
    columns = [curve.quantiles, curve.probabilities, band.low.probabilities, band.high.probabilities]
    if columns[0][0] > 0:
        columns = [np.insert(column, 0, first) for column, first in zip(columns, (0, 1, 1, 1), strict=True)]
    steps, open_, low, high = columns
    at_risk = times.size - np.searchsorted(np.sort(times), steps)
    # No session blocked yet: the exact binomial lower bound for n successes in n trials.
    all_open = open_ == 1
    low[all_open], high[all_open] = tail ** (1 / at_risk[all_open]), 1.0
    # All sessions blocked: the upper bound must not increase. It has no earlier value if one query blocked all.
    if open_[-1] == 0:
        before = high[-2] if high.size > 1 else 1.0
        low[-1], high[-1] = 0.0, min(before, 1 - tail ** (1 / at_risk[-1]))
    return Survival(queries=steps, open=open_, low=low, high=high)


def queries_until_stopped(sessions: Sequence[tuple[str, int]], budget: int) -> int | None:
    """Return the number of queries, over all its sessions, after which a client was stopped; None if it was not.

    A client is stopped if its last session was blocked and it then gave up. A client that opens another session after a
    refusal, or continues in one that is open, is not stopped by that refusal. A client with several sessions that has
    spent its budget is not stopped either, even if its last query was refused.

    Parameters
    ----------
    sessions : sequence of (outcome, queries)
        The sessions of one client under one filter, in the order of their last queries; at least one.
    budget : int
        Query budget of the client over all its sessions.

    Returns
    -------
    int or None
        Number of queries; None if the client was not stopped.

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
