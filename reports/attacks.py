"""The benchmark of attacks: which of them, undefended, reconstruct more than their auxiliary images show already."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import stats

from mifsim.errors import RunError
from mifsim.statistics import clopper_pearson
from mifsim.tables.records import TableWriter
from mifsim.tables.storage import Folder
from reports.comparison import undefended
from reports.tables import attackers, facts, leakage, sessions
from reports.tables import benchmark_table as read_benchmark
from reports.wording import missing, percent

LEVEL = 0.01
"""Of both tests that an attack must pass to be said to work."""

_BASELINES = {"prior": "auxiliary images (no query)", "random": "noise images (no query)"}


def benchmark(run: Folder, needs: Mapping[str, str]) -> pd.DataFrame:
    """Return one row a population of attackers where nothing filters, then the floors.

    An attack works where its reconstructions beat the zero-query prior, auxiliary images drawn regardless of class,
    twice: the evaluator takes more of them for their target (Fisher's exact test against the prior's hits, which are
    scored for every class), and more than half are closer to a private image of their class, in the evaluator's
    features, than the prior's median for that class is (exact sign test; a tie counts against). Both one-sided, at
    `LEVEL`. Attackers that end with the same reconstruction of a class are one to the tests.

    Parameters
    ----------
    run : Path or RemotePath
    needs : mapping of str to str
        What each kind of attack needs back.

    Returns
    -------
    DataFrame
        The columns are those of ``attack_benchmark``.

    Raises
    ------
    RunError
        Where the run scored nothing, or has no filter that filters nothing.
    """
    scores = leakage(run)
    if scores is None:
        raise RunError(f"{run}: nothing was scored (its study has leakage.enabled = false, or no attacks)")
    bare = undefended(run)
    rows = attackers(sessions(run))
    rows = rows[rows["filter"].isin(bare) & (rows["outcome"] != "failed")]
    if rows.empty:
        raise RunError(f"{run}: has no attacker behind a filter with none = true")
    baselines = scores[scores["kind"] != "attack"]
    prior = baselines[baselines["kind"] == "prior"]
    leaked = scores[(scores["kind"] == "attack") & scores["last"]]
    leaked = leaked[["session_id", "evaluator_confidence", "evaluator_hit", "feature_distance", "psnr_nearest_db"]]
    joined = rows.merge(leaked, on="session_id", how="inner")
    table = [
        _row(str(name), joined[joined["population"] == name], prior, needs)
        for name in dict.fromkeys(joined["population"].astype(str))
    ]
    table += [_baseline(kind, baselines[baselines["kind"] == kind]) for kind in _BASELINES]
    return pd.DataFrame(table)


def _row(name: str, group: pd.DataFrame, prior: pd.DataFrame, needs: Mapping[str, str]) -> dict[str, Any]:
    attack = str(group["client"].iloc[0])
    distinct = group.drop_duplicates(["target", "evaluator_confidence", "feature_distance", "psnr_nearest_db"])
    same_classes = prior[prior["target"].isin(distinct["target"])]
    medians = prior.groupby("target")["feature_distance"].median()
    count = len(distinct)
    hits = int(distinct["evaluator_hit"].astype(bool).sum())
    closer = int((distinct["feature_distance"].to_numpy() < medians.reindex(distinct["target"]).to_numpy()).sum())
    lucky = int(same_classes["evaluator_hit"].astype(bool).sum())
    hit_p = float(
        stats.fisher_exact([[hits, count - hits], [lucky, len(same_classes) - lucky]], alternative="greater").pvalue
    )
    distance_p = float(stats.binomtest(closer, count, 0.5, alternative="greater").pvalue)
    low, high = clopper_pearson(hits, count)
    return {
        "population": name,
        "attack": attack,
        "needs": needs.get(attack),
        "attackers": len(group),
        "reconstructions": count,
        "answered_queries": float(group["answered_queries"].median()),
        **_scores(distinct),
        "low": low,
        "high": high,
        "closer": closer,
        "hit_p_value": hit_p,
        "distance_p_value": distance_p,
        "works": bool(hit_p < LEVEL and distance_p < LEVEL),
    }


def _baseline(kind: str, group: pd.DataFrame) -> dict[str, Any]:
    nothing = ("attack", "needs", "low", "high", "closer", "hit_p_value", "distance_p_value", "works")
    return {
        "population": _BASELINES[kind],
        "attackers": len(group),
        "reconstructions": len(group),
        "answered_queries": 0.0,
        **_scores(group),
        **dict.fromkeys(nothing),
    }


def _scores(group: pd.DataFrame) -> dict[str, Any]:
    hits = group["evaluator_hit"].astype(bool)
    return {
        "evaluator_hits": int(hits.sum()),
        "evaluator_hit_share": float(hits.mean()) if len(hits) else np.nan,
        "evaluator_confidence": float(group["evaluator_confidence"].mean()),
        "feature_distance": float(group["feature_distance"].median()),
    }


def write_benchmark(run: Folder, needs: Mapping[str, str]) -> None:
    """Write ``attack_benchmark.parquet`` into the run folder; see `benchmark`."""
    known = facts(run)
    metadata = {
        "run_id": str(known.get("run_id", "")),
        "study": str(known.get("study", "")),
        "mifsim_version": str(known.get("versions", {}).get("mifsim", "")),
    }
    table = benchmark(run, needs)
    plain = table.astype(object).where(table.notna(), None)
    with TableWriter(run / "attack_benchmark.parquet", "attack_benchmark", metadata) as writer:
        writer.write({column: plain[column].tolist() for column in writer.schema.names})


def print_benchmark(run: Folder, console: Console | None = None) -> None:
    """Print ``attack_benchmark.parquet``: the attacks, then the floors, and what "works" means."""
    frame = read_benchmark(run)
    if frame is None:
        raise RunError(f"{run}: has no attack_benchmark.parquet")
    out = console or Console(width=None if sys.stdout.isatty() else 140)
    table = Table(title="Attacks, undefended", title_justify="left")
    for title in ("attack", "needs"):
        table.add_column(title)
    for title in ("queries", "evaluator's hits", "95% interval", "confidence", "distance", "closer", "works"):
        table.add_column(title, justify="right")
    before = None
    for row in frame.to_dict("records"):
        baseline = missing(row["attack"])
        if baseline and before is False:
            table.add_section()
        before = baseline
        table.add_row(
            str(row["population"]),
            "" if missing(row["needs"]) else str(row["needs"]),
            f"{row['answered_queries']:,.0f}",
            f"{percent(row['evaluator_hit_share'])} of {int(row['reconstructions'])}",
            "" if baseline else f"{percent(row['low'])} to {percent(row['high'])}",
            f"{row['evaluator_confidence']:.2f}",
            f"{row['feature_distance']:.2f}",
            "" if baseline else f"{int(row['closer'])} of {int(row['reconstructions'])}",
            "" if baseline else ("yes" if row["works"] else "[bold]no[/]"),
        )
    out.print(table)
    out.print(
        "queries: median answered. distance: to the nearest private image of the class, in the evaluator's features, "
        "median; closer: than the median auxiliary image for that class. works: more hits than the auxiliary images "
        f"(Fisher's exact test) and closer more often than not (exact sign test), each one-sided at {LEVEL:.0%}, over "
        "reconstructions that differ, given this victim and this evaluator.",
        highlight=False,
    )
    out.print(f"the table is in {run / 'attack_benchmark.parquet'}", highlight=False)
