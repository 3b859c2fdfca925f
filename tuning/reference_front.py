"""The reference that a search is measured by: an exhaustive grid, and a finer one around the best of it.

It is an optional ability of a kind: `DetectorConfig.reference_values` says which values of some parameters to try, and
`DetectorConfig.replay_swept` replays all values of the others at once.

Points are rows of objectives (see `tuning.objectives`): false-positive rate, queries to block and, where asked for,
leakage at block; all are minimised.
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
"""A value of every choice, and the values of each parameter that is not swept, ascending."""
OnProgress = Callable[[int, int], None]
"""Called with the points of the grid that are done, and all that are known of so far."""


@dataclass(frozen=True, eq=False)
class ParetoFront:
    """The configurations of a grid that no other beats.

    Attributes
    ----------
    configs : tuple of DetectorConfig
        Ascending in false-positive rate.
    points : ndarray of shape (n, 2) or (n, 3)
        Their objectives.
    hypervolume : float
        See `hypervolume`.
    tried : int
        How many configurations were replayed.
    """

    configs: tuple[DetectorConfig, ...]
    points: Floats
    hypervolume: float
    tried: int


def has_reference(space: SearchSpace) -> bool:
    """Return whether a kind can be searched exhaustively."""
    return bool(space.config_class.reference_steps and space.config_class.swept)


def reference_front(traces: TraceSet, tuning: Tuning, on_progress: OnProgress) -> ParetoFront:
    """Replay every configuration of a grid over the study's space, then of a finer one where its best ones lie.

    Parameters
    ----------
    traces : TraceSet
        The search split.
    tuning : Tuning
        Bounds, choices, objectives, and how fine the grid is.
    on_progress : callable

    Returns
    -------
    ParetoFront
        Of both grids together.
    """
    space = tuning.search_space
    cls = space.config_class
    coarse: list[Grid] = []
    for chosen in _choices(space):
        corner = next(config for config in space.corners() if all(getattr(config, k) == v for k, v in chosen.items()))
        bounds = {name: space.bounds[name] for name in cls.reference_steps}
        coarse.append((chosen, cls.reference_values(traces.recorded(corner), chosen, bounds, tuning.grid)))
    first = _front(traces, coarse, tuning, on_progress)
    fine: list[Grid] = []
    for chosen, values in coarse:
        best = [config for config in first.configs if all(getattr(config, k) == v for k, v in chosen.items())]
        if best:
            near = {
                name: _refined(cls.params[name], values[name], [getattr(one, name) for one in best], tuning.grid[name])
                for name in values
            }
            fine.append((chosen, near))
    if not fine:
        return first
    before = _size(coarse)
    second = _front(traces, fine, tuning, lambda done, total: on_progress(before + done, before + total))
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
    """Replay every configuration of some grids, and keep those that no other beats.

    Parameters
    ----------
    traces : TraceSet
        Of attacks and honest sessions.
    grids : sequence of Grid
        The values to combine with each other.
    space : SearchSpace
        Whose kind it is, and the bounds of the swept parameters: all values between them are tried.
    attack, leakage
        See `objectives`.
    fpr_limit : float
        Configurations above it are passed over.
    threads : int
        Kernels run without the interpreter's lock. The result does not depend on it.
    on_progress : callable, optional

    Notes
    -----
    Of configurations with equal objectives the one is kept that is the least likely to block an honest session that was
    not seen: the least strict value of the first parameter, then of the next; choices in the order given.
    """
    cls = space.config_class
    swept = {name: (int(space.bounds[name][0]), int(space.bounds[name][1])) for name in cls.swept}
    lows = [low for low, _ in swept.values()]
    most = {name: high for name, (_, high) in swept.items()}
    flips = tuple(slice(None, None, -1 if cls.params[name].strictness < 0 else 1) for name in swept)
    # In the order in which of equal configurations the first is kept.
    rows = [
        (chosen, value, [dict(zip(rest, point, strict=True)) for point in itertools.product(*rest.values())])
        for chosen, values in grids
        for first, *others in [list(values)]
        for rest in [{name: _least_strict_first(cls.params[name], values[name]) for name in others}]
        for value in [{first: one} for one in _least_strict_first(cls.params[first], values[first])]
    ]

    def made(point: Mapping[str, Any], swept_values: Sequence[int]) -> DetectorConfig:
        values = dict(zip(swept, swept_values, strict=True))
        return cls(**point, **values, scope=space.scope, view=space.view)

    def best_of(row: tuple[Mapping[str, Any], Mapping[str, float], list[dict[str, float]]]) -> Any:
        chosen, value, rest = row
        tables = []
        for point in rest:
            config = made({**chosen, **value, **point}, lows)
            found = objectives(traces, replay_swept(traces, config, most), attack, leakage=leakage)
            tables.append(found[(slice(None), *(slice(low - 1, None) for low in lows))][(slice(None), *flips)])
        table = np.stack(tables, axis=1)
        inside = np.flatnonzero(table[0] <= fpr_limit)
        points = table.reshape(len(table), -1)[:, inside].T
        kept = non_dominated(points)
        places = np.column_stack(np.unravel_index(inside[kept], table.shape[1:])).tolist()
        return points[kept], [
            made(
                {**chosen, **value, **rest[p]},
                [
                    high - i if flip.step < 0 else low + i
                    for i, flip, (low, high) in zip(at, flips, swept.values(), strict=True)
                ],
            )
            for p, *at in places
        ]

    for chosen, values in grids:  # what is derived from the traces is derived once, before the threads
        point = {name: _least_strict_first(cls.params[name], array)[0] for name, array in values.items()}
        replay_swept(traces, made({**chosen, **point}, lows), most)
    points, configs = np.empty((0, 3 if leakage else 2)), list[DetectorConfig]()
    done, total = 0, _size(grids)
    with ThreadPoolExecutor(threads) as pool:
        for row, (more, found) in zip(rows, pool.map(best_of, rows), strict=True):
            kept = non_dominated(np.concatenate([points, more]))
            points = np.concatenate([points, more])[kept]
            configs = list(itertools.compress([*configs, *found], kept))
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
    """Return values that fill the grid's cells on both sides of the best ones, log-uniformly unless `spaced` is given.

    Parameters
    ----------
    grid : ndarray
        Ascending; positive, where it is filled log-uniformly.
    best : sequence of float
        Some of the grid's values (to rounding).
    steps : int
        How many to return, about: they are shared among the cells, at least one new value for each.
    spaced : callable
        Returns so many values from one to another, both included.

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
    """Return finer values around the best ones, ascending; the cells are those of the distances from the pole."""
    spaced = np.linspace if param.scale == "linear" else np.geomspace
    if not param.pole:
        near = between(values, best, steps, spaced)
    else:
        above = bool(values[-1] > param.pole)
        distances = np.sort(np.abs(values - param.pole))
        away = between(distances, [param.distance(value) for value in best], steps, spaced)
        near = np.sort(param.pole + away if above else param.pole - away)
    return np.unique(np.round(near)) if param.whole else near


def _least_strict_first(param: Param, values: Floats) -> list[float]:
    rising = np.unique(np.asarray(values, dtype=np.float64))
    towards_pole = bool(param.pole) and bool(rising[0] < param.pole)
    falls = (param.strictness > 0) == towards_pole if param.strictness else False
    return [round(value) if param.whole else float(value) for value in (rising[::-1] if falls else rising)]


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
