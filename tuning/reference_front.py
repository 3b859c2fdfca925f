"""The reference front by which a search is measured: an exhaustive grid, then a finer grid around its best points.

A kind supports it optionally: `DetectorConfig.reference_values` defines the grid values of some parameters, and
`DetectorConfig.replay_swept` replays all values of the others at once.

Points are rows of objectives (see `tuning.objectives`): false-positive rate, queries to block and, optionally, leakage
at block. All are minimised.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from mifsim.defense import DetectorConfig, Param
from mifsim.defense.space import SearchSpace
from mifsim.pareto import hypervolume, non_dominated
from mifsim.study import Tuning
from tuning.objectives import Attack, attack_budget, objectives
from tuning.replay import replay_swept
from tuning.tracedata import Floats, TraceSet

Grid = tuple[dict[str, Any], Mapping[str, Floats]]
"""One value of each choice, and the ascending values of each parameter that is not swept."""
OnProgress = Callable[[int, int], None]
"""Called with the number of finished grid points, and the number of points known so far."""


@dataclass(frozen=True, eq=False)
class ParetoFront:
    """The non-dominated configurations of a grid.

    Attributes
    ----------
    configs : tuple of DetectorConfig
        The n configurations, in ascending order of false-positive rate.
    points : ndarray of float64, shape (n, 2 or 3)
        Their objectives.
    hypervolume : float
        Hypervolume of the points, in [0, 1]; see `mifsim.pareto.hypervolume`.
    tried : int
        Number of replayed configurations.
    """

    configs: tuple[DetectorConfig, ...]
    points: Floats
    hypervolume: float
    tried: int


def has_reference(space: SearchSpace) -> bool:
    """Return whether the space's kind supports a reference front."""
    return bool(space.reference_steps and space.config_class.swept)


def reference_front(traces: TraceSet, tuning: Tuning, on_progress: OnProgress) -> ParetoFront:
    """Replay all configurations of a coarse grid over the study's space, then of a finer grid around its front.

    Parameters
    ----------
    traces : TraceSet
        The search split.
    tuning : Tuning
        The section ``[tuning]``: bounds, choices, objectives, and the number of grid values of each parameter.
    on_progress : callable
        See `OnProgress`.

    Returns
    -------
    ParetoFront
        The front of both grids together.
    """
    space = tuning.search_space
    cls = space.config_class
    coarse: list[Grid] = []
    for chosen in _choices(space):
        corner = next(config for config in space.corners() if all(getattr(config, k) == v for k, v in chosen.items()))
        bounds = {name: space.bounds[name] for name in space.reference_steps}
        coarse.append((chosen, cls.reference_values(traces.recorded(corner), chosen, bounds, tuning.grid)))
    first = _front(traces, coarse, tuning, on_progress)
    fine: list[Grid] = []
    for chosen, values in coarse:
        best = [config for config in first.configs if all(getattr(config, k) == v for k, v in chosen.items())]
        if best:
            refined = {
                name: _refined(cls.params[name], values[name], [getattr(one, name) for one in best], tuning.grid[name])
                for name in values
            }
            fine.append((chosen, refined))
    if not fine:
        return first
    coarse_size = _size(coarse)
    second = _front(traces, fine, tuning, lambda done, total: on_progress(coarse_size + done, coarse_size + total))
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


def grid_front(
    traces: TraceSet,
    grids: Sequence[Grid],
    space: SearchSpace,
    *,
    attack: Attack = "worst",
    leakage: bool = False,
    fpr_limit: float = 0.10,
    threads: int = 1,
    on_progress: OnProgress | None = None,
) -> ParetoFront:
    """Replay all configurations of several grids; keep the non-dominated ones.

    Parameters
    ----------
    traces : TraceSet
        Sessions of attacks and of honest workloads.
    grids : sequence of Grid
        In each grid, all values are combined with each other.
    space : SearchSpace
        The kind, and the bounds of its swept parameters; all their values within the bounds are replayed.
    attack, leakage
        See `tuning.objectives.objectives`.
    fpr_limit : float
        Configurations with a higher false-positive rate are left out; in (0, 1].
    threads : int
        Number of threads; the kernels release the interpreter's lock. The result does not depend on it.
    on_progress : callable, optional
        See `OnProgress`.

    Returns
    -------
    ParetoFront
        The front of all grids together.

    Notes
    -----
    Among configurations with equal objectives, the least strict is kept: it is the least likely to block an unseen
    honest session. The first parameter is compared first, then the next; choices have the given order.
    """
    cls = space.config_class
    swept = {name: (int(space.bounds[name][0]), int(space.bounds[name][1])) for name in cls.swept}
    lows = [low for low, _ in swept.values()]
    most = {name: high for name, (_, high) in swept.items()}
    flips = tuple(slice(None, None, -1 if cls.params[name].strictness < 0 else 1) for name in swept)
    # The order matters: among equal configurations, the first is kept.
    rows = [
        (chosen, value, [dict(zip(rest, point, strict=True)) for point in itertools.product(*rest.values())])
        for chosen, values in grids
        for first, *others in [list(values)]
        for rest in [{name: _least_strict_first(cls.params[name], values[name]) for name in others}]
        for value in [{first: one} for one in _least_strict_first(cls.params[first], values[first])]
    ]

    def make_config(point: Mapping[str, Any], swept_values: Sequence[int]) -> DetectorConfig:
        values = dict(zip(swept, swept_values, strict=True))
        return cls(**point, **values, scope=space.scope, view=space.view)

    def front_of(row: tuple[Mapping[str, Any], Mapping[str, float], list[dict[str, float]]]) -> Any:
        chosen, value, rest = row
        tables = []
        for point in rest:
            config = make_config({**chosen, **value, **point}, lows)
            values = objectives(traces, replay_swept(traces, config, most), attack, leakage=leakage)
            tables.append(values[(slice(None), *(slice(low - 1, None) for low in lows))][(slice(None), *flips)])
        table = np.stack(tables, axis=1)
        inside = np.flatnonzero(table[0] <= fpr_limit)
        points = table.reshape(len(table), -1)[:, inside].T
        kept = non_dominated(points)
        places = np.column_stack(np.unravel_index(inside[kept], table.shape[1:])).tolist()
        return points[kept], [
            make_config(
                {**chosen, **value, **rest[p]},
                [
                    high - i if flip.step < 0 else low + i
                    for i, flip, (low, high) in zip(at, flips, swept.values(), strict=True)
                ],
            )
            for p, *at in places
        ]

    for chosen, values in grids:  # fill `traces.prepared` before the threads start, so that each value is made once
        point = {name: _least_strict_first(cls.params[name], array)[0] for name, array in values.items()}
        replay_swept(traces, make_config({**chosen, **point}, lows), most)
    points, configs = np.empty((0, 3 if leakage else 2)), list[DetectorConfig]()
    done, total = 0, _size(grids)
    with ThreadPoolExecutor(threads) as pool:
        for row, (new_points, new_configs) in zip(rows, pool.map(front_of, rows), strict=True):
            kept = non_dominated(np.concatenate([points, new_points]))
            points = np.concatenate([points, new_points])[kept]
            configs = list(itertools.compress([*configs, *new_configs], kept))
            done += len(row[2])
            if on_progress is not None:
                on_progress(done, total)
    order = np.lexsort(points.T[::-1])
    return ParetoFront(
        configs=tuple(configs[i] for i in order),
        points=points[order],
        hypervolume=hypervolume(points, budget=attack_budget(traces), fpr_limit=fpr_limit),
        tried=total * math.prod(high - low + 1 for low, high in swept.values()),
    )


def between(
    grid: Floats, best: Sequence[float], steps: int, spaced: Callable[[float, float, int], Floats] = np.geomspace
) -> Floats:
    """Return values in the grid cells on both sides of the best values, log-spaced by default.

    Parameters
    ----------
    grid : ndarray of float64, shape (n,)
        Values in ascending order; positive if they are log-spaced.
    best : sequence of float
        Values of the grid, up to rounding.
    steps : int
        Approximate number of new values. They are divided among the cells; each cell gets at least one.
    spaced : callable
        Returns a given number of values between two ends, including both ends, such as `numpy.linspace`.

    Returns
    -------
    ndarray of float64
        The best values, the ends of their cells and the new values, in ascending order.

    Examples
    --------
    >>> between(np.array([1.0, 4.0, 16.0, 64.0]), [16.0], 2).round(9).tolist()
    [4.0, 8.0, 16.0, 32.0, 64.0]
    """
    places = {int(np.abs(grid - value).argmin()) for value in best}
    cells = sorted({cell for place in places for cell in (place - 1, place) if 0 <= cell < len(grid) - 1})
    new = max(1, steps // max(1, len(cells)))
    filled = [spaced(grid[cell], grid[cell + 1], new + 2) for cell in cells]
    return np.unique(np.concatenate([grid[sorted(places)], *filled]))


def _choices(space: SearchSpace) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*space.choices.values()):
        yield dict(zip(space.choices, values, strict=True))


def _refined(param: Param, values: Floats, best: Sequence[float], steps: int) -> Floats:
    """Return finer values around the best ones, in ascending order; `between` is applied to distances from the pole."""
    spaced = np.linspace if param.scale == "linear" else np.geomspace
    if not param.pole:
        refined = between(values, best, steps, spaced)
    else:
        above = bool(values[-1] > param.pole)
        distances = np.sort(np.abs(values - param.pole))
        refined_distances = between(distances, [param.distance(value) for value in best], steps, spaced)
        refined = np.sort(param.pole + refined_distances if above else param.pole - refined_distances)
    return np.unique(np.round(refined)) if param.whole else refined


def _least_strict_first(param: Param, values: Floats) -> list[float]:
    ascending = np.unique(np.asarray(values, dtype=np.float64))
    below_pole = bool(param.pole) and bool(ascending[0] < param.pole)
    descends = (param.strictness > 0) == below_pole if param.strictness else False
    ordered = ascending[::-1] if descends else ascending
    return [round(value) if param.whole else float(value) for value in ordered]


def _front(traces: TraceSet, grids: Sequence[Grid], tuning: Tuning, on_progress: OnProgress) -> ParetoFront:
    return grid_front(
        traces,
        grids,
        tuning.search_space,
        attack=tuning.attack,
        leakage=tuning.leakage,
        fpr_limit=tuning.false_positive_budget,
        threads=os.cpu_count() or 1,
        on_progress=on_progress,
    )


def _size(grids: Sequence[Grid]) -> int:
    return sum(math.prod(len(values) for values in grid.values()) for _, grid in grids)
