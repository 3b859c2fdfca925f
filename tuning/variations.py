"""Random variations of the best trials so far: the evolution strategy beside Optuna's samplers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mifsim.pareto import non_dominated
from tuning.tracedata import Floats

ELITE = 10
"""Number of the fastest trials within the false-positive limit that are varied beside the Pareto-optimal ones."""
_STEPS = (-2.3, -0.5)
"""Range of the logarithm (base 10) of the standard deviation with which a parameter varies, as a share of its range."""
_VARIED = (0.0, 0.1, 0.3, 1.0)
"""Probabilities with which each number changes, one of which is drawn for a variation; at least one changes."""
_CHOICES = 0.1
"""Probability with which a choice is drawn anew."""


def parents(points: Floats, limit: float, budget: float) -> list[int]:
    """Return the numbers of the trials to vary.

    Parameters
    ----------
    points : ndarray of float64, shape (n, m)
        False-positive rate, queries to block and, optionally, leakage of each trial.
    limit, budget : float
        The false-positive rate to guarantee, and the constraint of the search. Trials above the latter are only taken
        if there are no others.

    Returns
    -------
    list of int
        In ascending order.

    Examples
    --------
    >>> parents(np.array([(0.0, 90.0), (0.05, 20.0), (0.05, 30.0), (0.4, 1.0)]), limit=0.01, budget=0.1)
    [0, 1]
    """
    allowed = np.flatnonzero(points[:, 0] <= budget)
    if not len(allowed):
        allowed = np.arange(len(points))
    front = allowed[non_dominated(points[allowed])]
    within = np.flatnonzero(points[:, 0] <= limit)
    fastest = within[np.argsort(points[within, 1], kind="stable")[:ELITE]]
    found: list[int] = np.union1d(front, fastest).tolist()
    return found


def varied(
    params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], rng: np.random.Generator
) -> dict[str, Any]:
    """Return a variation of a point of the search space.

    Some of its numbers change by a normally distributed step, on the scale of their distributions; the step's standard
    deviation is from 0.5% to 32% of the range, log-uniform, and the same for all of them. Choices are sometimes drawn
    anew.

    Parameters
    ----------
    params : mapping
        The values by name.
    distributions : mapping of str to BaseDistribution
    rng : Generator
    """
    step = 10.0 ** rng.uniform(*_STEPS)
    numbers = [name for name, one in distributions.items() if not isinstance(one, CategoricalDistribution)]
    changes = rng.random(len(numbers)) < rng.choice(_VARIED)
    if len(numbers) and not changes.any():
        changes[rng.integers(len(numbers))] = True
    found = dict(params)
    for name, change in zip(numbers, changes, strict=True):
        if change:
            found[name] = _moved(params[name], distributions[name], step * rng.normal())
    for name, one in distributions.items():
        if isinstance(one, CategoricalDistribution) and rng.random() < _CHOICES:
            found[name] = one.choices[rng.integers(len(one.choices))]
    return found


def _moved(value: float, one: BaseDistribution, step: float) -> float:
    """Return a number moved by a share of its range, within its bounds."""
    assert isinstance(one, FloatDistribution | IntDistribution)
    low, high, at = float(one.low), float(one.high), float(value)
    if one.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    moved = min(max(at + step * (high - low), low), high)
    if one.log:
        moved = math.exp(moved)
    bounded: float = min(max(moved, one.low), one.high)  # exp(log(x)) may differ from x
    return round(bounded) if isinstance(one, IntDistribution) else bounded


def variation(
    trials: Sequence[Mapping[str, Any]], points: Floats, distributions: Mapping[str, BaseDistribution], limit: float,
    budget: float, rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    """Return a variation of one of the best trials, each of which is as likely.

    Parameters
    ----------
    trials : sequence of mapping
        The parameters of the trials.
    points, limit, budget
        See `parents`.
    distributions, rng
        See `varied`.
    """
    chosen = parents(points, limit, budget)
    return varied(trials[chosen[rng.integers(len(chosen))]], distributions, rng)
