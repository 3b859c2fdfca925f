"""The W statistic of the Shapiro-Wilk test of normality, without scipy, which a server need not install.

This module imports numba, so import it only in functions that need it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.defense.compiled import entry

SMALLEST = 3
"""Smallest number of values that have a W."""

# Royston 1995, polynomials in 1 / sqrt(n) for the two largest weights, in ascending order of the exponents.
_LAST = (0.0, 0.221157, -0.147981, -2.07119, 4.434685, -2.706056)
_LAST_BUT_ONE = (0.0, 0.042981, -0.293762, -1.752461, 5.682633, -3.582633)


@lru_cache(maxsize=1024)
def weights(n: int) -> npt.NDArray[np.float64]:
    """Return the weights of the upper half of `n` sorted values, the largest first, shape (n // 2,); read-only.

    The lower half has the same weights with the opposite sign. They are Royston's approximation.

    References
    ----------
    P. Royston, "Remark AS R94: A remark on algorithm AS 181: The W-test for normality", Applied Statistics 44 (1995).
    """
    if n == SMALLEST:
        return _read_only([math.sqrt(0.5)])
    normal = NormalDist()
    scores = [normal.inv_cdf((n - i - 0.375) / (n + 0.25)) for i in range(n // 2)]  # Blom's, the largest first
    norm = 2.0 * math.fsum(score * score for score in scores)
    root = 1.0 / math.sqrt(n)
    # For n up to 5, only the largest weight is a polynomial, otherwise the two largest. The others are proportional to
    # their scores, so that the squares of all n weights add up to 1.
    found = [
        score / math.sqrt(norm) + sum(c * root**power for power, c in enumerate(terms))
        for score, terms in zip(scores, (_LAST,) if n <= 5 else (_LAST, _LAST_BUT_ONE), strict=False)
    ]
    head = len(found)
    rest = norm - 2.0 * math.fsum(score * score for score in scores[:head])
    scale = math.sqrt((1.0 - 2.0 * math.fsum(weight * weight for weight in found)) / rest)
    return _read_only([*found, *(scale * score for score in scores[head:])])


def _read_only(values: list[float]) -> npt.NDArray[np.float64]:
    array = np.array(values)
    array.setflags(write=False)
    return array


@entry
def _statistic(values: Any, weights: Any) -> Any:
    """Return W of sorted values: the squared correlation of the values with the weights."""
    n = len(values)
    extent = values[n - 1] - values[0]
    if extent < 1e-19:
        return 1.0  # all values are equal
    mean = 0.0
    for value in values:
        mean += (value - values[0]) / extent
    mean /= n
    squares, product, norm = 0.0, 0.0, 0.0
    for i in range(n):
        deviation = (values[i] - values[0]) / extent - mean
        weight = 0.0
        if i < len(weights):
            weight = -weights[i]
        elif n - 1 - i < len(weights):
            weight = weights[n - 1 - i]
        squares += deviation * deviation
        product += weight * deviation
        norm += weight * weight
    both = np.sqrt(squares * norm)
    return 1.0 - (both - product) * (both + product) / (squares * norm)


def shapiro_w(values: npt.NDArray[np.float64]) -> float:
    """Return the W statistic of the Shapiro-Wilk test, as `scipy.stats.shapiro` defines it.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        At least 3 values, in any order.

    Returns
    -------
    float
        In (0, 1]; values near 1 are consistent with a normal distribution. 1 if all values are equal, as in scipy.

    Raises
    ------
    ValueError
        If there are fewer than 3 values.
    """
    if len(values) < SMALLEST:
        raise ValueError(f"{len(values)} values: the Shapiro-Wilk test needs at least {SMALLEST}")
    statistic: float = _statistic(np.sort(values), weights(len(values)))
    return statistic
