"""The trade between detection speed and false positives: the settings that no other beats.

Points are rows of objectives (see `tuning.objectives`): false-positive rate, queries to block and, where
asked for, leakage at block; all are minimised.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mifsim.defense import CountRule, FilterConfig, Form
from mifsim.pareto import hypervolume, non_dominated
from tuning.objectives import Attack, attack_budget, objectives
from tuning.replay import prepare, replay_all
from tuning.tracedata import Floats, TraceSet


@dataclass(frozen=True, eq=False)
class ParetoFront:
    """The settings of a grid that no other beats.

    Attributes
    ----------
    settings : tuple of FilterConfig
        Ascending in false-positive rate.
    points : ndarray of shape (n, 2) or (n, 3)
        Their objectives.
    hypervolume : float
        See `mifsim.pareto.hypervolume`.
    tried : int
        How many settings were replayed.
    """

    configs: tuple[FilterConfig, ...]
    points: Floats
    hypervolume: float
    tried: int


def threshold_grid(
    traces: TraceSet,
    form: Form,
    *,
    t_ssim: tuple[float, float],
    t_hash: tuple[float, float],
    steps: tuple[int, int],
) -> tuple[Floats, Floats]:
    """Return thresholds fine enough for a reference_front: half on the parameters' scales, half where the data lie.

    Parameters
    ----------
    traces : TraceSet
        Whose similarities and gaps count, those of pairs within `n_b_max` of each other.
    form : {"global", "uniform", "gaussian"}
        The SSIM.
    t_ssim, t_hash : tuple of float
        Bounds, below 1 and above 0. ``1 - t_ssim`` and ``t_hash`` are spread log-uniformly, as in the search.
    steps : tuple of int
        How many of each, at most: equal ones are dropped.

    Returns
    -------
    t_ssim, t_hash : ndarray
        Ascending.
    """
    pairs = prepare(traces, form)
    finite = np.isfinite(pairs.gap)
    distances = 1 - pairs.similarity[finite].astype(np.float64)
    far_to_near = _spread(distances, (1 - t_ssim[1], 1 - t_ssim[0]), steps[0])[::-1]
    return 1 - far_to_near, _spread(pairs.gap[finite], t_hash, steps[1])


def _spread(values: Floats, bounds: tuple[float, float], steps: int) -> Floats:
    low, high = bounds
    if not 0 < low <= high or steps < 2:
        raise ValueError(f"need 0 < low <= high and at least 2 steps, got {low} to {high}, {steps} steps")
    inside = values[(values > low) & (values < high)]
    scale = np.geomspace(low, high, steps - steps // 2)
    if inside.size == 0:
        return scale
    return np.unique(np.concatenate([scale, np.quantile(inside, np.linspace(0, 1, steps // 2))]))


def grid_front(
    traces: TraceSet,
    thresholds: Mapping[Form, tuple[npt.ArrayLike, npt.ArrayLike]],
    *,
    n_b: tuple[int, int],
    l_sp: tuple[int, int],
    rules: Sequence[CountRule] = ("per_match",),
    attack: Attack = "worst",
    leakage: bool = False,
    fpr_limit: float = 0.10,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ParetoFront:
    """Replay every setting of a grid, and keep those that no other beats.

    Parameters
    ----------
    traces : TraceSet
        Of attacks and honest sessions.
    thresholds : mapping of form to (t_ssim, t_hash)
        The thresholds to combine with each other, by SSIM form; see `threshold_grid`.
    n_b, l_sp : tuple of int
        Least and greatest; all between are tried.
    rules : sequence of {"per_match", "per_query"}
        The count rules to try.
    attack, leakage
        See `objectives`.
    fpr_limit : float
        Settings above it are passed over.
    threads : int
        The kernel runs without the interpreter's lock. The result does not depend on it.
    progress : callable, optional
        Called with the pairs of thresholds that are done, and all of them.

    Notes
    -----
    Of settings with equal objectives the one is kept that is the least likely to block an honest session
    that was not seen: the greatest t_ssim, then the least t_hash, the least n_b, the greatest l_sp; forms and
    rules in the order given.
    """
    if not 1 <= n_b[0] <= n_b[1] or not 1 <= l_sp[0] <= l_sp[1]:
        raise ValueError(f"n_b and l_sp need 1 <= least <= greatest, got {n_b} and {l_sp}")
    # In the order in which of equal settings the first is kept.
    rows = [
        (form, rule, t_ssim, np.unique(np.asarray(hashes, dtype=np.float64)))
        for form, (similarities, hashes) in thresholds.items()
        for rule in rules
        for t_ssim in np.unique(np.asarray(similarities, dtype=np.float64))[::-1]
    ]
    for form in thresholds:
        prepare(traces, form)  # before the threads, so that it is done once

    def best_of(row: tuple[Form, CountRule, float, Floats]) -> tuple[Floats, list[FilterConfig]]:
        form, rule, t_ssim, hashes = row
        tables = []
        for t_hash in hashes:
            sums = replay_all(
                traces, form=form, rule=rule, t_ssim=t_ssim, t_hash=t_hash, n_b_max=n_b[1], l_sp_max=l_sp[1]
            )
            found = objectives(traces, sums, attack, leakage=leakage)
            tables.append(found[:, n_b[0] - 1 :, l_sp[0] - 1 :][:, :, ::-1])
        table = np.stack(tables, axis=1)
        inside = np.flatnonzero(table[0] <= fpr_limit)
        points = table.reshape(len(table), -1)[:, inside].T
        kept = non_dominated(points)
        places = np.column_stack(np.unravel_index(inside[kept], table.shape[1:])).tolist()
        return points[kept], [
            FilterConfig(t_ssim, hashes[h], n_b[0] + n, l_sp[1] - m, form, traces.hash_size, rule) for h, n, m in places
        ]

    points, configs = np.empty((0, 3 if leakage else 2)), list[FilterConfig]()
    done, total = 0, sum(len(hashes) for *_, hashes in rows)
    with ThreadPoolExecutor(threads) as pool:
        for row, (more, found) in zip(rows, pool.map(best_of, rows), strict=True):
            kept = non_dominated(np.concatenate([points, more]))
            points = np.concatenate([points, more])[kept]
            configs = list(itertools.compress([*configs, *found], kept))
            done += len(row[3])
            if progress is not None:
                progress(done, total)
    order = np.lexsort(points.T[::-1])
    return ParetoFront(
        configs=tuple(configs[i] for i in order),
        points=points[order],
        hypervolume=hypervolume(points, budget=attack_budget(traces), fpr_limit=fpr_limit),
        tried=total * (n_b[1] - n_b[0] + 1) * (l_sp[1] - l_sp[0] + 1),
    )
