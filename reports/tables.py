"""The tables of a run: who was blocked, after how many queries, and what the attacker held by then."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mifsim.records import open_table, read_table
from mifsim.statistics import clopper_pearson, kaplan_meier


def sessions(run: Path) -> pd.DataFrame:
    """Return one row a session, attacks and users, filters and populations in the order of the study."""
    frame: pd.DataFrame = open_table(run, "sessions").to_table().to_pandas()
    return frame


def leakage(run: Path) -> pd.DataFrame | None:
    """Return one row a scored guess; None where the run scored none."""
    return read_table(run, "leakage").to_pandas() if (run / "leakage").is_dir() else None


def attack_table(run: Path) -> pd.DataFrame:
    """Return, for each filter and attack, how many were blocked, when, and what they held.

    Returns
    -------
    DataFrame
        Columns ``filter``, ``attack``, ``sessions``, ``blocked``, ``median_queries_to_block`` (Kaplan-Meier; NaN
        where fewer than half were blocked), ``restricted_mean_queries`` (each session counted as its budget at
        most), ``budget_queries``, ``failed``, and at the last answered query ``victim_confidence``,
        ``evaluator_hit_share``,
        ``evaluator_confidence``, ``feature_distance`` (means).
    """
    rows = sessions(run)
    attacks = rows[rows["role"] == "attacker"]
    scores = leakage(run)
    last = None if scores is None else scores[scores["last"]].set_index("session_id")
    table = [
        {"filter": filter_, "attack": attack, **_attack_row(group, last)}
        for (filter_, attack), group in _groups(attacks)
    ]
    return pd.DataFrame(table)


def _groups(rows: pd.DataFrame) -> Iterable[tuple[tuple[str, str], pd.DataFrame]]:
    for filter_ in rows["filter"].unique():
        of_filter = rows[rows["filter"] == filter_]
        for population in of_filter["population"].unique():
            yield (str(filter_), str(population)), of_filter[of_filter["population"] == population]


def _attack_row(group: pd.DataFrame, last: pd.DataFrame | None) -> dict[str, Any]:
    blocked = group["outcome"].eq("blocked").to_numpy()
    failed = int(group["outcome"].eq("failed").sum())
    budget = int(group["budget_queries"].iloc[0])
    # An attacker that finished, or ran out of its budget, was never blocked: censored at the budget.
    queries = np.where(blocked, group["queries_to_block"].fillna(budget), budget).astype(float)
    survival = kaplan_meier(queries, blocked)
    median = survival.median
    row: dict[str, Any] = {
        "sessions": len(group),
        "blocked": int(blocked.sum()),
        "median_queries_to_block": np.nan if median is None else median,
        "restricted_mean_queries": survival.restricted_mean(budget),
        "budget_queries": budget,
        "victim_confidence": float(group["target_confidence"].mean()),
        "failed": failed,
    }
    if last is not None:
        held = last.reindex(group["session_id"]).dropna(subset=["evaluator_confidence"])
        row["evaluator_hit_share"] = float(held["evaluator_hit"].astype(bool).mean()) if len(held) else np.nan
        row["evaluator_confidence"] = float(held["evaluator_confidence"].mean())
        row["feature_distance"] = float(held["feature_distance"].mean())
    return row


def user_table(run: Path, confidence: float = 0.95) -> pd.DataFrame:
    """Return, for each filter and workload, the false positives with an exact interval.

    Returns
    -------
    DataFrame
        Columns ``filter``, ``workload``, ``sessions``, ``blocked``, ``false_positive_rate``, ``low``, ``high``
        (Clopper-Pearson), ``mean_queries``, ``failed``, ``worst`` (the filter's worst workload).
    """
    rows = sessions(run)
    table: list[dict[str, Any]] = []
    for (filter_, workload), group in _groups(rows[rows["role"] == "user"]):
        done = group[group["outcome"] != "failed"]
        blocked = int(done["outcome"].eq("blocked").sum())
        low, high = clopper_pearson(blocked, len(done), confidence)
        table.append(
            {
                "filter": filter_,
                "workload": workload,
                "sessions": len(done),
                "blocked": blocked,
                "false_positive_rate": blocked / len(done) if len(done) else np.nan,
                "low": low,
                "high": high,
                "mean_queries": float(done["queries"].mean()),
                "failed": len(group) - len(done),
            }
        )
    frame = pd.DataFrame(table)
    if len(frame):
        rates = frame["false_positive_rate"]
        worst = rates.groupby(frame["filter"]).transform("max")
        frame["worst"] = rates.eq(worst) & rates.gt(0)
    return frame


def floor_table(run: Path) -> pd.DataFrame | None:
    """Return what guesses without a single query score: the floors that leakage is compared with."""
    scores = leakage(run)
    if scores is None:
        return None
    floors = scores[scores["kind"] != "attack"]
    columns = ["evaluator_hit", "evaluator_confidence", "feature_distance", "ssim_nearest", "psnr_nearest_db"]
    return floors.groupby("kind", observed=True)[columns].mean().reset_index()


def facts(run: Path) -> dict[str, Any]:
    """Return what ``run.json`` says."""
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def failures(run: Path) -> pd.DataFrame:
    """Return the sessions whose client raised, with the message."""
    rows = sessions(run)
    return rows.loc[rows["outcome"] == "failed", ["session_id", "error"]]
