"""Tables 2 and 3: maximum iterations before detection, as in the paper and with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mifsim.statistics import clopper_pearson, kaplan_meier
from reports.paper.load import Results
from reports.paper.published_tables import attacks

PAPER_TRIALS = 3


def max_iterations(results: Results, half: str, noise: float) -> pd.DataFrame:
    """Return the paper's measure: the largest number of queries to block among the first three trials per label.

    Returns
    -------
    DataFrame
        Index label (by name), one column per configuration; NaN if one of the three was never blocked.
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
    """Return the outcome of all trials, one row per noise and configuration.

    Returns
    -------
    DataFrame
        Columns noise, config, trials, blocked, low, high (exact interval of the share blocked), median, median_low,
        median_high (Kaplan-Meier; NaN: not reached within the budget), mean (restricted), budget, evaluator_confidence.
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
                    # The lower curve of the band falls below one half first, so it gives the lower limit of the median.
                    "median_low": _first(curve.queries, curve.low),
                    "median_high": _first(curve.queries, curve.high),
                    "mean": curve.restricted_mean(budget),
                    "budget": budget,
                    "evaluator_confidence": float(selected["evaluator_confidence"].astype(float).mean()),
                }
            )
    return pd.DataFrame(rows)


def by_label(results: Results, half: str, noise: float) -> pd.DataFrame:
    """Return Kaplan-Meier medians of all trials with their band, one row per label and configuration."""
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
    """Return the noise levels of the main study."""
    return sorted(results.attacks.loc[results.attacks["dataset"] == half, "noise"].unique())


def nearest_noise(results: Results, half: str, config: str) -> float:
    """Return the noise of the main study with the median queries to block nearest to the paper's median over labels."""
    published = float(np.log(attacks(half)[config].median()))
    table = results.attacks[(results.attacks["dataset"] == half) & (results.attacks["config"] == config)]
    queries = table["queries_to_block"].astype(float).fillna(np.inf)
    # If exactly half of the attackers are blocked, the median is the last of those, as in `_first`.
    median = queries.groupby(table["noise"]).quantile(0.5, interpolation="lower")
    return float(min(median.index, key=lambda noise: (abs(np.log(median[noise]) - published), noise)))


def agreement(results: Results, half: str) -> tuple[int, int]:
    """Return the number of live sessions, and how many of them match their replay."""
    live = results.attacks[(results.attacks["dataset"] == half) & results.attacks["live"]]
    matching = live["queries_to_block"].fillna(0) == live["live_queries_to_block"].fillna(0)
    return len(live), int(matching.sum())


def _sessions(results: Results, half: str, noise: float) -> pd.DataFrame:
    table = results.attacks
    return table[(table["dataset"] == half) & (table["noise"] == noise)]


def _first(queries: npt.NDArray[np.float64], curve: npt.NDArray[np.float64]) -> float:
    below = np.flatnonzero(curve <= 0.5 + 1e-12)
    return float(queries[below[0]]) if below.size else float("nan")
