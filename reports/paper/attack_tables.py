"""Tables 2 and 3: maximum iterations before detection, the paper's way and with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mifsim.statistics import clopper_pearson, kaplan_meier
from reports.paper.load import Results
from reports.paper.published_tables import attacks

PAPER_TRIALS = 3


def paper_way(results: Results, half: str, noise: float) -> pd.DataFrame:
    """Return the table as the paper makes it: of the first three trials a label, the latest block.

    Returns
    -------
    DataFrame
        Index label (by name), a column a setting; NaN where one of the three was never blocked.
    """
    selected = _sessions(results, half, noise)
    selected = selected[selected["trial"] < PAPER_TRIALS]
    names = results.classes(half)

    def latest(blocks: pd.Series) -> float:
        return float(blocks.max()) if blocks.notna().all() else float("nan")

    table = selected.groupby(["label", "config"])["queries_to_block"].agg(latest).unstack("config")
    table.index = pd.Index([names[label] for label in table.index], name="label")
    return table[[name for name in results.config_names(half) if name in table.columns]]


def with_intervals(results: Results, half: str) -> pd.DataFrame:
    """Return what became of all trials, a row a noise and configuration.

    Returns
    -------
    DataFrame
        Columns noise, setting, trials, blocked, low, high (of the share blocked, exact), median, median_low,
        median_high (Kaplan-Meier; NaN: not reached within the budget), mean (restricted), budget.
    """
    rows = []
    for noise in noises(results, half):
        of_noise = _sessions(results, half, noise)
        for config in results.config_names(half):
            selected = of_noise[of_noise["config"] == config]
            if selected.empty:
                continue
            blocked = selected["queries_to_block"].notna()
            curve = kaplan_meier(selected["queries_to_block"].fillna(selected["budget_queries"]), blocked)
            low, high = clopper_pearson(int(blocked.sum()), len(selected))
            budget = float(selected["budget_queries"].max())
            rows.append(
                {
                    "noise": noise,
                    "config": config,
                    "trials": len(selected),
                    "blocked": int(blocked.sum()),
                    "low": low,
                    "high": high,
                    "median": _first(curve.queries, curve.open),
                    # The band's lower curve falls below one half first: it is the early end of the median.
                    "median_low": _first(curve.queries, curve.low),
                    "median_high": _first(curve.queries, curve.high),
                    "mean": curve.restricted_mean(budget),
                    "budget": budget,
                    "evaluator_confidence": float(selected["evaluator_confidence"].astype(float).mean()),
                }
            )
    return pd.DataFrame(rows)


def by_label(results: Results, half: str, noise: float) -> pd.DataFrame:
    """Return Kaplan-Meier medians of all trials, by label and configuration: median, low, high, blocked, trials."""
    rows = []
    names = results.classes(half)
    groups: Any = _sessions(results, half, noise).groupby(["label", "config"])
    for (label, config), selected in groups:
        blocked = selected["queries_to_block"].notna()
        curve = kaplan_meier(selected["queries_to_block"].fillna(selected["budget_queries"]), blocked)
        rows.append(
            {
                "label": names[int(label)],
                "config": config,
                "trials": len(selected),
                "blocked": int(blocked.sum()),
                "median": _first(curve.queries, curve.open),
                "low": _first(curve.queries, curve.low),
                "high": _first(curve.queries, curve.high),
            }
        )
    return pd.DataFrame(rows)


def noises(results: Results, half: str) -> list[float]:
    """Return the noise levels that were recorded with all trials."""
    return sorted(results.attacks.loc[results.attacks["dataset"] == half, "noise"].unique())


def nearest_noise(results: Results, half: str, config: str) -> float:
    """Return the recorded noise at which the median attacker is detected nearest to the paper's median over labels."""
    wanted = float(np.log(attacks(half)[config].median()))
    table = results.attacks[(results.attacks["dataset"] == half) & (results.attacks["config"] == config)]
    queries = table["queries_to_block"].astype(float).fillna(np.inf)
    # Where half are blocked and half never, the median is the last of those that are: as in `_first`.
    middle = queries.groupby(table["noise"]).quantile(0.5, interpolation="lower")
    return float(min(middle.index, key=lambda noise: (abs(np.log(middle[noise]) - wanted), noise)))


def agreement(results: Results, half: str) -> tuple[int, int]:
    """Return how many sessions ran live, and in how many of them replay said the same."""
    ran = results.attacks[(results.attacks["dataset"] == half) & results.attacks["live"]]
    same = ran["queries_to_block"].fillna(0) == ran["live_queries_to_block"].fillna(0)
    return len(ran), int(same.sum())


def _sessions(results: Results, half: str, noise: float) -> pd.DataFrame:
    table = results.attacks
    return table[(table["dataset"] == half) & (table["noise"] == noise)]


def _first(queries: npt.NDArray[np.float64], curve: npt.NDArray[np.float64]) -> float:
    below = np.flatnonzero(curve <= 0.5 + 1e-12)
    return float(queries[below[0]]) if below.size else float("nan")
