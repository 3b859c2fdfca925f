"""Sensitivity to the four parameters of a configuration: one at a time (curves), and in pairs (heat maps)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from mifsim.defense import FilterConfig, Form
from mifsim.progress import Bar
from mifsim.statistics import kaplan_meier
from tuning.objectives import objectives
from tuning.paper.attacks import N_B_MAX
from tuning.paper.plan import CALIBRATED, Plan, configs
from tuning.replay import replay, replay_swept
from tuning.tracedata import TraceSet

Rows = list[dict[str, Any]]

FALSE_POSITIVE_LIMIT = 0.01
L_SP_MAX = 64
HEAT_FORM: Form = "uniform"
ATTACKERS_PER_LABEL = 3
"""Number of attackers in the heat maps, each cell of which replays thousands of configurations."""

DISTANCES = tuple(float(value) for value in np.geomspace(1e-5, 0.5, 25))
"""Values of 1 − t_ssim."""
HASHES = tuple(float(value) for value in np.geomspace(1e-5, 0.1, 25))
COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)


def curve_rows(plan: Plan, traces: TraceSet, calibrated: FilterConfig | None) -> Rows:
    """Return the rows of ``paper_curves``: one parameter of a configuration varies, the others are fixed."""
    bases = {"config_3": configs(plan.half)["config_3"]}
    if calibrated is not None:
        bases[CALIBRATED] = calibrated
    rows: Rows = []
    for base, config in bases.items():
        for parameter, value, changed in _one_at_a_time(config):
            blocked_at = replay(traces, changed).blocked_at
            for g, group in enumerate(traces.groups):
                members = traces.group == g
                if not members.any():
                    continue
                is_attack, blocked = bool(traces.is_attack[members][0]), blocked_at[members] > 0
                budget = traces.budget[members]
                curve = kaplan_meier(np.where(blocked, blocked_at[members], budget), blocked)
                rows.append(
                    {
                        "dataset": plan.half,
                        "base": base,
                        "parameter": parameter,
                        "value": value,
                        "group": group,
                        "role": "attacker" if is_attack else "user",
                        "sessions": int(members.sum()),
                        "blocked": int(blocked.sum()),
                        "queries_to_block": curve.restricted_mean(float(budget.max())) if is_attack else None,
                    }
                )
    return rows


def _one_at_a_time(config: FilterConfig) -> Iterator[tuple[str, float, FilterConfig]]:
    for distance in DISTANCES:
        yield "t_ssim", 1 - distance, replace(config, t_ssim=1 - distance)
    for value in HASHES:
        yield "t_hash", value, replace(config, t_hash=value)
    for n_b in range(1, N_B_MAX + 1):
        yield "n_b", n_b, replace(config, n_b=n_b)
    for l_sp in sorted({*COUNTS, config.l_sp}):
        yield "l_sp", l_sp, replace(config, l_sp=l_sp)


def heat_rows(plan: Plan, traces: TraceSet) -> Rows:
    """Return the rows of ``paper_heat``, from an exact replay of every configuration of a grid.

    A cell has the best value over the two parameters that are not its axes, for the worst attack and worst workload.
    """
    subset = traces.subset(~traces.is_attack | (_trial(traces) < ATTACKERS_PER_LABEL))
    steps = 9 if plan.small else 25
    distances = np.geomspace(DISTANCES[0], DISTANCES[-1], steps)
    hashes = np.geomspace(HASHES[0], HASHES[-1], steps)
    pairs = [(1 - float(distance), float(value)) for distance in distances for value in hashes]
    best = np.full((N_B_MAX, L_SP_MAX), np.inf)
    rows: Rows = []
    most = {"n_b": N_B_MAX, "l_sp": L_SP_MAX}
    # Prepares what all replays share, before the threads start.
    replay_swept(subset, FilterConfig(0.5, 0.5, 1, 1, HEAT_FORM), {"n_b": 1, "l_sp": 1})

    def cell(pair: tuple[float, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
        sums = replay_swept(subset, FilterConfig(pair[0], pair[1], 1, 1, HEAT_FORM), most)
        rate, queries = objectives(subset, sums, "worst", leakage=False)
        return np.where(rate <= FALSE_POSITIVE_LIMIT, queries, np.inf)

    with (
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        Bar(f"{plan.half}: exact grid", len(pairs), "pairs of thresholds") as bar,
    ):
        for number, (pair, values) in enumerate(zip(pairs, pool.map(cell, pairs), strict=True), 1):
            best = np.minimum(best, values)
            rows.append(_heat(plan, "thresholds", pair[0], pair[1], float(values.min())))
            bar.update(number)
    for n_b in range(1, N_B_MAX + 1):
        rows += [_heat(plan, "counts", n_b, l_sp, float(best[n_b - 1, l_sp - 1])) for l_sp in COUNTS]
    return rows


def _heat(plan: Plan, plane: str, x: float, y: float, queries: float) -> dict[str, Any]:
    return {
        "dataset": plan.half, "plane": plane, "x": x, "y": y,
        "queries_to_block": queries if np.isfinite(queries) else None, "false_positive_limit": FALSE_POSITIVE_LIMIT,
    }  # fmt: skip


def _trial(traces: TraceSet) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([int(client.rpartition("/")[2]) for client in traces.clients], np.int64)
