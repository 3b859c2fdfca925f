"""How a search went on: the best setting under the budget, and the frontier's hypervolume, trial by trial."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class SearchProgress:
    """How a search went on; entry i is after i + 1 trials.

    Attributes
    ----------
    best : tuple of float or None
        Least queries to block of the trials whose false-positive rate is within the limit; None before the first.
    hypervolume : tuple of float
        Share of the region that the trials dominate; see `hypervolume`.
    exact : float or None
        The same of the exact frontier and the trials together; None where there is no exact frontier.
    """

    best: tuple[float | None, ...]
    hypervolume: tuple[float, ...]
    exact: float | None

    @property
    def found(self) -> tuple[float, ...] | None:
        """The share of the exact hypervolume found, after each trial."""
        return None if not self.exact else tuple(value / self.exact for value in self.hypervolume)


def search_progress(
    trials: pd.DataFrame, pareto: pd.DataFrame | None, *, budget: float, limit: float | None, region: float
) -> SearchProgress:
    """Return how the search went on.

    Parameters
    ----------
    trials : DataFrame
        As `reports.tables.trial_table` gives it. A trial scored on part of the sessions only counts as nothing.
    frontier : DataFrame or None
        Whose rows of source ``exact`` are the reference_front.
    budget : float
        Of queries, above 1: the scale of the hypervolume.
    limit : float or None
        On the false-positive rate; None: none.
    region : float
        False-positive rate at which the region of the hypervolume ends, in (0, 1].
    """
    whole = trials["sessions_replayed"].eq(trials["sessions_replayed"].max())
    points: list[tuple[float, float]] = []
    best: list[float | None] = []
    volumes: list[float] = []
    for rate, queries, counts in zip(trials["false_positive_rate"], trials["queries_to_block"], whole, strict=True):
        last = best[-1] if best else None
        if counts and (limit is None or rate <= limit) and (last is None or queries < last):
            last = float(queries)
        if counts:
            points = _non_dominated(points, (float(rate), float(queries)))
        best.append(last)
        volumes.append(hypervolume(points, budget, region))
    exact = None
    if pareto is not None and len(grid := pareto[pareto["source"] == "exact"]):
        # A grid is only so fine: a trial may lie beyond it.
        both = [*points, *zip(grid["false_positive_rate"], grid["queries_to_block"], strict=True)]
        exact = hypervolume(both, budget, region)
    return SearchProgress(tuple(best), tuple(volumes), exact)


def _non_dominated(points: list[tuple[float, float]], new: tuple[float, float]) -> list[tuple[float, float]]:
    if any(rate <= new[0] and queries <= new[1] for rate, queries in points):
        return points
    kept = [point for point in points if not (new[0] <= point[0] and new[1] <= point[1])]
    bisect.insort(kept, new)
    return kept


def hypervolume(points: list[tuple[float, float]], budget: float, rate: float) -> float:
    """Return the share that settings dominate of: rates up to `rate` by the logarithm of queries up to `budget`.

    Parameters
    ----------
    points : list of (false-positive rate, queries to block)
    budget, rate : float
        ``budget > 1`` and ``0 < rate <= 1``.

    Examples
    --------
    >>> round(hypervolume([(0.05, 10.0)], budget=1000, rate=0.1), 6)  # half of the rates, two thirds of the decades
    0.333333
    """
    volume, reached = 0.0, 1.0  # in the unit square, where a setting dominates what is above it and to its right
    for share, height in sorted((x / rate, math.log(max(1.0, y)) / math.log(budget)) for x, y in points):
        if share < 1 and height < reached:
            volume += (1 - share) * (reached - height)
            reached = height
    return volume
