"""Evidence that more sessions are blocked than a calibration promised, valid at all times.

A session is blocked (x = 1) or not (x = 0). The hypothesis is: *whatever happened before, a session is blocked with
probability at most alpha*. A bet with the odds ratio r > 1 multiplies its capital by ``r^x / (1 + (r - 1) alpha)``,
which has a mean of at most 1 under the hypothesis. The mean capital of several bets is therefore a nonnegative
supermartingale, an *e-process*: by Ville's inequality, it ever reaches 1 / delta with probability at most delta. It
depends on two integers only, the numbers of sessions and of blocked ones, so the counts of several logs can be added.

An e-process that has seen many good sessions takes long to notice that they are over. The *e-detector* (Shiryaev and
Roberts) adds up the capital of bets that started at each session, so it does not. It raises false alarms sooner or
later, on average after at least as many sessions as its threshold says.

References
----------
Ville, *Étude critique de la notion de collectif* (1939). Waudby-Smith and Ramdas, *Estimating means of bounded random
variables by betting*, JRSS B 86 (2024). Shin, Ramdas and Rinaldo, *E-detectors: a nonparametric framework for
sequential change detection*, NEJSDS 2 (2024), section 2.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ODDS_RATIOS: Floats = np.array([1.5, 2.0, 3.0, 5.0, 10.0, 30.0])
"""Odds ratios of the bets. With a limit of 1%, they win most if 1.5%, 2%, 2.9%, 4.8%, 9.2% or 23% are blocked."""

_BISECTIONS = 60


def log_evidence(
    sessions: npt.ArrayLike, blocked: npt.ArrayLike, limit: npt.ArrayLike, ratios: Floats = ODDS_RATIOS
) -> Floats:
    """Return the logarithm of the e-process for "the share of blocked sessions is at most `limit`".

    Parameters
    ----------
    sessions, blocked : array_like of int
        Numbers of sessions, and of blocked ones among them.
    limit : array_like of float
        The promised share, in (0, 1); broadcast with the numbers.
    ratios : ndarray of float64, shape (K,)
        Odds ratios of the bets. Ratios below 1 bet that the share is less than `limit`.

    Returns
    -------
    ndarray of float64

    Examples
    --------
    >>> np.exp(log_evidence(10, 2, 0.01, np.array([2.0]))).round(4).tolist()
    3.6211
    >>> round(2**2 / 1.01**10, 4)
    3.6211
    """
    total, hits = (np.asarray(values, dtype=np.float64)[..., None] for values in (sessions, blocked))
    terms = hits * np.log(ratios) - total * np.log1p((ratios - 1) * np.asarray(limit, dtype=np.float64)[..., None])
    return log_mean(terms)


def change_statistics(blocked: npt.ArrayLike, limit: float, before: Floats | None = None) -> Floats:
    """Return the logarithms of the Shiryaev-Roberts statistics of each bet after each session.

    The statistic of a bet is ``m = (m + 1) * factor``, which starts at 0. See `log_change`.

    Parameters
    ----------
    blocked : array_like of bool, shape (n,)
        Whether each session was blocked, in order.
    limit : float
        The promised share, in (0, 1).
    before : ndarray of float64, shape (K,), optional
        The statistics after earlier sessions; None: there are none.

    Returns
    -------
    ndarray of float64, shape (n, K)
    """
    hits = np.asarray(blocked, dtype=np.float64)[:, None]
    capital = np.cumsum(hits * np.log(ODDS_RATIOS) - np.log1p((ODDS_RATIOS - 1) * limit), axis=0)
    start = np.vstack([np.zeros(len(ODDS_RATIOS)), capital[:-1]])[: len(capital)]
    gathered: Floats = np.logaddexp.accumulate(-start, axis=0)  # bets that started at this session or before it
    if before is not None:
        gathered = np.logaddexp(gathered, before)
    return capital + gathered


def log_change(statistics: Floats) -> Floats:
    """Return the logarithm of the e-detector: of the mean of the bets' statistics, over the last axis.

    Under the hypothesis, the first session after which it reaches ``log(c)`` is session number c on average, or a later
    one: the average run length is at least c.
    """
    return log_mean(statistics)


def share_bounds(sessions: npt.ArrayLike, blocked: npt.ArrayLike, delta: float) -> tuple[Floats, Floats]:
    """Return a lower and an upper bound of the share of blocked sessions, each valid at all times.

    Each bound is the set of limits against which the evidence never reached 1 / delta, in one direction. So the lower
    bound exceeds a limit if and only if `log_evidence` for this limit has reached 1 / delta.

    Parameters
    ----------
    sessions, blocked : array_like of int
    delta : float
        Probability that a bound is ever wrong, in (0, 1), if sessions are blocked independently of each other with the
        same probability. Both are right with probability 1 - 2 delta.

    Returns
    -------
    low, high : ndarray of float64, in [0, 1]
    """
    return (
        _bisected(sessions, blocked, delta, ODDS_RATIOS, refutes_low=True),
        _bisected(sessions, blocked, delta, 1 / ODDS_RATIOS, refutes_low=False),
    )


def _bisected(
    sessions: npt.ArrayLike, blocked: npt.ArrayLike, delta: float, ratios: Floats, *, refutes_low: bool
) -> Floats:
    """Return where the evidence, a monotone function of the limit, is 1 / delta; an end of [0, 1] if it never is."""
    total, hits = np.broadcast_arrays(np.asarray(sessions, np.int64), np.asarray(blocked, np.int64))
    low, high = np.zeros(total.shape), np.ones(total.shape)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        refuted = log_evidence(total, hits, middle, ratios) >= -math.log(delta)
        upwards = refuted if refutes_low else ~refuted
        low, high = np.where(upwards, middle, low), np.where(upwards, high, middle)
    return low if refutes_low else high


def log_mean(logarithms: Floats) -> Floats:
    """Return the logarithm of the mean over the last axis of numbers given by their logarithms."""
    mean: Floats = np.logaddexp.reduce(logarithms, axis=-1) - math.log(logarithms.shape[-1])
    return mean
