"""Pareto dominance and the hypervolume of a set of configurations.

A point is a row of objectives: false-positive rate, queries to block and, optionally, leakage at block. All objectives
are minimised.
"""

from __future__ import annotations

import math

import moocore
import numpy as np
import numpy.typing as npt


def non_dominated(points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return which points are non-dominated.

    A point is dominated if another point is at least as good in all objectives and better in one.

    Parameters
    ----------
    points : array_like of shape (n, m)
        Smaller values are better. Of equal points, only the first counts as non-dominated.

    Returns
    -------
    ndarray of bool, shape (n,)
        True for non-dominated points.
    """
    found = np.asarray(points, dtype=np.float64)
    if len(found) == 0:
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(moocore.is_nondominated(found), dtype=np.bool_)


def hypervolume(points: npt.ArrayLike, *, budget: float, fpr_limit: float = 0.10) -> float:
    """Return the share of the reference region that the points dominate.

    Parameters
    ----------
    points : array_like of shape (n, 2) or (n, 3)
        False-positive rate, queries to block (at least 1) and, in a third column, leakage in [0, 1].
    budget : float
        Query budget, above 1. Queries are scaled to ``log(queries) / log(budget)``.
    fpr_limit : float
        Upper bound of the reference region's false-positive rate, in (0, 1]. Points outside the region contribute
        nothing.

    Returns
    -------
    float
        In [0, 1]. It is 1 for a configuration without false positives that blocks at the first query (and leaks
        nothing).

    Raises
    ------
    ValueError
        If the shape or a value is out of range.

    Examples
    --------
    >>> hypervolume([[0.05, 10.0]], budget=1000)  # half of the rates, two thirds of the log scale
    0.333333...
    """
    found = np.asarray(points, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] not in (2, 3):
        raise ValueError(f"points must have shape (n, 2) or (n, 3), got {found.shape}")
    if not budget > 1 or not 0 < fpr_limit <= 1:
        raise ValueError(f"need budget > 1 and 0 < fpr_limit <= 1, got {budget} and {fpr_limit}")
    if not (found[:, 0] >= 0).all() or not (found[:, 1] >= 1).all() or not (found[:, 2:] >= 0).all():
        raise ValueError("rates and leakage must be at least 0, queries at least 1, and none NaN")
    unit = found.copy()
    unit[:, 0] /= fpr_limit
    unit[:, 1] = np.log(unit[:, 1]) / math.log(budget)
    inside = unit[(unit < 1).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=np.ones(found.shape[1]))) if len(inside) else 0.0
