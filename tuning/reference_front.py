"""What the search is measured by: an exhaustive grid, and a finer one around the best of it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mifsim.defense import Form
from mifsim.pareto import hypervolume, non_dominated
from mifsim.study import Tuning
from tuning.objectives import attack_budget
from tuning.pareto import ParetoFront, grid_front, threshold_grid
from tuning.tracedata import Floats, TraceSet

Grids = Mapping[Form, tuple[Floats, Floats]]
Watch = Callable[[int, int], None]
"""Called with the pairs of thresholds that are done, and all that are known of so far."""


def reference_front(traces: TraceSet, tuning: Tuning, watch: Watch) -> ParetoFront:
    """Replay every setting of a grid over the study's space, then of a finer one where its best settings lie.

    Parameters
    ----------
    traces : TraceSet
        The search part.
    tuning : Tuning
        Bounds, choices, objectives, and how fine the grid is.
    watch : callable

    Returns
    -------
    ParetoFront
        Of both grids together.
    """
    coarse = {
        form: threshold_grid(
            traces,
            form,
            t_ssim=(tuning.t_ssim.min, tuning.t_ssim.max),
            t_hash=(tuning.t_hash.min, tuning.t_hash.max),
            steps=(tuning.grid.t_ssim, tuning.grid.t_hash),
        )
        for form in tuning.ssim
    }
    first = _exact(traces, coarse, tuning, watch)
    fine = {}
    for form, (similarities, hashes) in coarse.items():
        best = [config for config in first.configs if config.ssim == form]
        if best:
            distances = between((1 - similarities)[::-1], [1 - config.t_ssim for config in best], tuning.grid.t_ssim)
            fine[form] = (1 - distances[::-1], between(hashes, [one.t_hash for one in best], tuning.grid.t_hash))
    if not fine:
        return first
    before = _pairs(coarse, tuning)
    second = _exact(traces, fine, tuning, lambda done, total: watch(before + done, before + total))
    points = np.concatenate([first.points, second.points])
    kept = non_dominated(points)
    configs = list(itertools.compress([*first.configs, *second.configs], kept))
    order = np.lexsort(points[kept].T[::-1])
    return ParetoFront(
        configs=tuple(configs[i] for i in order),
        points=points[kept][order],
        hypervolume=hypervolume(points, budget=attack_budget(traces), fpr_limit=tuning.false_positive_budget),
        tried=first.tried + second.tried,
    )


def between(grid: Floats, best: Sequence[float], steps: int) -> Floats:
    """Return values that fill the grid's cells on both sides of the best ones, log-uniformly.

    Parameters
    ----------
    grid : ndarray
        Ascending, positive.
    best : sequence of float
        Some of the grid's values (to rounding).
    steps : int
        How many to return, about: they are shared among the cells, at least one new value for each.

    Examples
    --------
    >>> between(np.array([1.0, 4.0, 16.0, 64.0]), [16.0], 2).round(9).tolist()
    [4.0, 8.0, 16.0, 32.0, 64.0]
    """
    places = {int(np.abs(grid - value).argmin()) for value in best}
    cells = sorted({cell for place in places for cell in (place - 1, place) if 0 <= cell < len(grid) - 1})
    new = max(1, steps // max(1, len(cells)))
    filled = [np.geomspace(grid[cell], grid[cell + 1], new + 2) for cell in cells]
    return np.unique(np.concatenate([grid[sorted(places)], *filled]))


def _exact(traces: TraceSet, grids: Grids, tuning: Tuning, watch: Watch) -> ParetoFront:
    return grid_front(
        traces,
        grids,
        n_b=(tuning.n_b.min, tuning.n_b.max),
        l_sp=(tuning.l_sp.min, tuning.l_sp.max),
        rules=tuning.count_rule,
        attack=tuning.attack,
        leakage=tuning.leakage,
        fpr_limit=tuning.false_positive_budget,
        threads=os.cpu_count() or 1,
        progress=watch,
    )


def _pairs(grids: Grids, tuning: Tuning) -> int:
    return sum(len(a) * len(b) for a, b in grids.values()) * len(tuning.count_rule)
