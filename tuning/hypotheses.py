"""Exact tests of false-positive rates, and what keeps many of them from erring together.

References
----------
Angelopoulos, Bates, Candes, Jordan and Lei, *Learn then Test* (2021), sections 2 and 3. Holm, Scandinavian
Journal of Statistics 6 (1979).
"""

from __future__ import annotations

import bisect
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from tuning.tracedata import Bools, Floats

_MOST_SESSIONS = 10_000_000


def p_values(blocked: npt.ArrayLike, sessions: npt.ArrayLike, limits: npt.ArrayLike) -> Floats:
    """Return a p-value for each setting's hypothesis that some workload's rate exceeds its limit.

    Parameters
    ----------
    blocked : array_like of int, shape (..., G)
        Sessions of each workload that the setting blocks.
    sessions : array_like of int, shape (G,)
        Sessions there are. Without any the p-value is 1.
    limits : array_like of float, shape (G,)
        In (0, 1).

    Returns
    -------
    ndarray of shape (...)

    Examples
    --------
    >>> p_values([[0], [1]], [299], [0.01]).round(4).tolist()
    [0.0495, 0.1991]
    """
    tails = special.bdtr(np.asarray(blocked), np.asarray(sessions), np.asarray(limits, dtype=np.float64))
    return np.asarray(tails.max(axis=-1), dtype=np.float64)


def fixed_sequence(p: npt.ArrayLike, delta: float) -> Bools:
    """Test in a given order, each hypothesis at the whole of `delta`, as long as they are rejected.

    Parameters
    ----------
    p : array_like of shape (J,)
        P-values in the order of testing, which must not depend on the data that they are from.
    delta : float
        Family-wise error, in (0, 1).

    Returns
    -------
    ndarray of bool, shape (J,)
        Which are rejected.

    Examples
    --------
    >>> fixed_sequence([0.01, 0.04, 0.06, 0.001], 0.05).tolist()
    [True, True, False, False]
    """
    return np.logical_and.accumulate(np.asarray(p, dtype=np.float64) <= delta)


def holm(p: npt.ArrayLike, delta: float) -> Bools:
    """Holm's step-down procedure, which needs no order.

    Parameters
    ----------
    p : array_like of shape (J,)
    delta : float
        Family-wise error, in (0, 1).

    Returns
    -------
    ndarray of bool, shape (J,)

    Examples
    --------
    >>> holm([0.01, 0.04, 0.02], 0.05).tolist()
    [True, True, True]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    passed = values[order] <= delta / np.arange(values.size, 0, -1)
    rejected = np.zeros(values.shape, dtype=np.bool_)
    rejected[order[: values.size if passed.all() else int(np.argmin(passed))]] = True
    return rejected


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
