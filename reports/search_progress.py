"""The progress of a search: the best configuration within the limit, and the hypervolume, trial by trial."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mifsim.pareto import hypervolume, non_dominated


@dataclass(frozen=True)
class SearchProgress:
    """The progress of a search; entry i is after i + 1 trials.

    Attributes
    ----------
    best : tuple of float or None
        Least queries to block of the trials whose false-positive rate is within the limit; None before the first.
    hypervolume : tuple of float
        Share of the region that the trials dominate; see `mifsim.pareto.hypervolume`.
    reference : float or None
        The same of the reference front and the trials together; None where there is no reference front.
    """

    best: tuple[float | None, ...]
    hypervolume: tuple[float, ...]
    reference: float | None

    @property
    def found(self) -> tuple[float, ...] | None:
        """The share of the reference hypervolume found, after each trial."""
        return None if not self.reference else tuple(value / self.reference for value in self.hypervolume)


def search_progress(
    trials: pd.DataFrame, pareto: pd.DataFrame | None, *, budget: float, limit: float | None, region: float
) -> SearchProgress:
    """Return the progress of a search.

    Parameters
    ----------
    trials : DataFrame
        As `reports.tables.trial_table` gives it. A trial scored on part of the sessions only counts as nothing.
    pareto : DataFrame or None
        Whose rows of source ``reference`` are the reference front.
    budget : float
        Of queries, above 1: the scale of the hypervolume.
    limit : float or None
        On the false-positive rate; None: none.
    region : float
        False-positive rate at which the region of the hypervolume ends, in (0, 1].
    """
    whole = trials["sessions_replayed"].eq(trials["sessions_replayed"].max())
    front, volume = np.empty((0, 2)), 0.0
    best: list[float | None] = []
    volumes: list[float] = []
    for rate, queries, counts in zip(trials["false_positive_rate"], trials["queries_to_block"], whole, strict=True):
        last = best[-1] if best else None
        if counts and (limit is None or rate <= limit) and (last is None or queries < last):
            last = float(queries)
        if counts:
            points = np.vstack([front, [rate, queries]])
            kept = non_dominated(points)
            if kept[-1]:  # else it adds nothing
                front = points[kept]
                volume = hypervolume(front, budget=budget, fpr_limit=region)
        best.append(last)
        volumes.append(volume)
    reference = None
    if pareto is not None and len(grid := pareto[pareto["source"] == "reference"]):
        # A grid is only so fine: a trial may lie beyond it.
        both = np.vstack([front, grid[["false_positive_rate", "queries_to_block"]].to_numpy(np.float64)])
        reference = hypervolume(both, budget=budget, fpr_limit=region)
    return SearchProgress(tuple(best), tuple(volumes), reference)
