"""The number of sessions with which a workload would pass the binomial test of its false-positive rate."""

from __future__ import annotations

import bisect
from typing import NamedTuple

import numpy as np
from scipy import special

_MAX_SESSIONS = 10_000_000
"""Maximum number of sessions that `sessions_needed` considers at a constant rate."""


class SessionsNeeded(NamedTuple):
    """Total number of sessions of a workload with which it would pass the test.

    Attributes
    ----------
    same_count : int
        The number if no further session is blocked.
    same_rate : int or None
        The number if the share of blocked sessions stays the same; None if that share is not below the limit, or so
        close to it that ten million sessions would not suffice.
    """

    same_count: int
    same_rate: int | None


def sessions_needed(blocked: int, sessions: int, limit: float, delta: float) -> SessionsNeeded:
    """Return the total number of sessions with which a workload would pass the binomial test at level `delta`.

    Parameters
    ----------
    blocked, sessions : int
        Observed numbers, with ``0 <= blocked <= sessions``.
    limit : float
        Limit on the false-positive rate, in (0, 1).
    delta : float
        Significance level, in (0, 1).

    Returns
    -------
    SessionsNeeded
        Total numbers of sessions, including the observed ones.

    Raises
    ------
    ValueError
        If `blocked` or `sessions` is out of range.

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
        # The binomial tail as a beta integral: scipy's binomial functions accept at most 2**31 trials.
        def passes(n: int) -> bool:
            return bool(special.betaincc(count + 1, n - count, limit) <= delta)

        return among[bisect.bisect_left(among, True, key=passes)]

    same_count = least(blocked, range(blocked, 2**40))
    if blocked == 0:
        return SessionsNeeded(same_count, same_count)
    # At the same rate, rounded up, c sessions are blocked of more than (c - 1) * sessions / blocked and at most
    # c * sessions / blocked sessions. Find the first c that passes with the largest of these numbers.
    count = 1
    while blocked < limit * sessions and count * sessions // blocked <= _MAX_SESSIONS:
        counts = np.arange(count, 2 * count)
        passed = special.bdtr(counts, counts * sessions // blocked, limit) <= delta
        if passed.any():
            first = int(counts[passed.argmax()])
            among = range((first - 1) * sessions // blocked + 1, first * sessions // blocked + 1)
            return SessionsNeeded(same_count, least(first, among))
        count *= 2
    return SessionsNeeded(same_count, None)
