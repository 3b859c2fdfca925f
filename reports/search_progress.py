"""Progress of a search: the best configuration within the limit, and the hypervolume, after each trial."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mifsim.pareto import hypervolume, non_dominated


@dataclass(frozen=True)
class SearchProgress:
    """The progress of a search; entry i describes the state after i + 1 trials.

    Attributes
    ----------
    best : tuple of float or None
        Smallest mean queries to block among the trials whose false-positive rate is within the limit; None before
        the first of them.
    hypervolume : tuple of float
        Share of the objective region that the trials dominate, in [0, 1]; see `mifsim.pareto.hypervolume`.
    reference : float or None
        Hypervolume of the reference front together with all trials; None without a reference front.
    """

    best: tuple[float | None, ...]
    hypervolume: tuple[float, ...]
    reference: float | None

    @property
    def found(self) -> tuple[float, ...] | None:
        """Hypervolume after each trial as a share of the reference; None without a reference front."""
        return None if not self.reference else tuple(value / self.reference for value in self.hypervolume)


def search_progress(
    trials: pd.DataFrame, pareto: pd.DataFrame | None, *, budget: float, limit: float | None, region: float
) -> SearchProgress:
    """Compute the progress of a search from its trials.

    Parameters
    ----------
    trials : DataFrame
        As `reports.tables.trial_table` returns it. Trials that were pruned before all sessions were replayed do not
        improve the result.
    pareto : DataFrame or None
        Its rows with source ``reference`` are the reference front.
    budget : float
        Query budget, above 1; the hypervolume is scaled by it.
    limit : float or None
        Limit of the false-positive rate, in [0, 1]; None for no limit.
    region : float
        Largest false-positive rate of the objective region, in (0, 1].
    """
    complete = trials["sessions_replayed"].eq(trials["sessions_replayed"].max())
    front, volume = np.empty((0, 2)), 0.0
    best: list[float | None] = []
    volumes: list[float] = []
    for rate, queries, counts in zip(trials["false_positive_rate"], trials["queries_to_block"], complete, strict=True):
        last = best[-1] if best else None
        if counts and (limit is None or rate <= limit) and (last is None or queries < last):
            last = float(queries)
        if counts:
            points = np.vstack([front, [rate, queries]])
            kept = non_dominated(points)
            if kept[-1]:  # a dominated trial does not change the hypervolume
                front = points[kept]
                volume = hypervolume(front, budget=budget, fpr_limit=region)
        best.append(last)
        volumes.append(volume)
    reference = None
    if pareto is not None and len(grid := pareto[pareto["source"] == "reference"]):
        # The reference front comes from a finite grid, so a trial may dominate it.
        both = np.vstack([front, grid[["false_positive_rate", "queries_to_block"]].to_numpy(np.float64)])
        reference = hypervolume(both, budget=budget, fpr_limit=region)
    return SearchProgress(tuple(best), tuple(volumes), reference)
