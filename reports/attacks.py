"""Attack benchmark: which undefended attacks reconstruct more than the zero-query baselines do."""

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
from reports.baselines import LABELLED, labelled_gap
from reports.comparison import undefended
from reports.leakage_metrics import NEEDS, metrics
from reports.tables import attackers, facts, leakage, sessions
from reports.tables import benchmark_table as read_benchmark
from reports.wording import doubtful_accuracy, missing, percent
from reports.zero_query import sentences, verdicts

LEVEL = 0.01
"""Significance level of each of the two one-sided tests in `benchmark`."""

_BASELINES = {
    "prior": "auxiliary images (no query)",
    "random": "noise images (no query)",
    LABELLED: "labelled auxiliary images (only labels)",
}


def benchmark(run: Folder, needs: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per undefended attack population, followed by one row per baseline.

    The prior is the baseline of auxiliary images, drawn regardless of their class. An attack works if its
    reconstructions are better than the prior in both of two one-sided tests at `LEVEL`:

    * Evaluator hits: the evaluator classifies more of them as their target class (Fisher's exact test against the
      hits of the prior, which is scored for every class).
    * Feature distance: more than half of them are closer to a private image of their class than the prior's median
      distance for that class (exact sign test; a tie counts against the attack).

    The tests count identical reconstructions of the same class once. The labelled baseline (auxiliary images that the
    model labels as the target) has a row for comparison; the verdict does not depend on it.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    needs : mapping of str to str
        Model output that each attack needs, by the name of the attack.

    Returns
    -------
    DataFrame
        The columns of the table ``attack_benchmark``.

    Raises
    ------
    RunError
        If the run has no leakage scores, or no attacker under a filter of kind ``none``.
    """
    scores = leakage(run)
    if scores is None:
        raise RunError(
            f"{run}: no leakage scores; expected a run whose study has leakage.enabled = true and at least one attack"
        )
    rows = attackers(sessions(run))
    rows = rows[rows["filter"].isin(undefended(run)) & (rows["outcome"] != "failed")]
    if rows.empty:
        raise RunError(f'{run}: no undefended attacker; expected a filter with kind = "none" and at least one attack')
    baselines = scores[scores["kind"] != "attack"]
    prior = baselines[baselines["kind"] == "prior"]
    leaked = scores[(scores["kind"] == "attack") & scores["last"]]
    leaked = leaked[["session_id", "evaluator_confidence", "evaluator_hit", "feature_distance", "psnr_nearest_db"]]
    joined = rows.merge(leaked, on="session_id", how="inner")
    table = [
        _row(str(name), joined[joined["population"] == name], prior, needs)
        for name in dict.fromkeys(joined["population"].astype(str))
    ]
    by_kind = {kind: baselines[baselines["kind"] == kind] for kind in _BASELINES}
    table += [_baseline(kind, group) for kind, group in by_kind.items() if kind != LABELLED or len(group)]
    return pd.DataFrame(table)


def _row(name: str, group: pd.DataFrame, prior: pd.DataFrame, needs: Mapping[str, str]) -> dict[str, Any]:
    attack = str(group["client"].iloc[0])
    distinct = group.drop_duplicates(["target", "evaluator_confidence", "feature_distance", "psnr_nearest_db"])
    same_classes = prior[prior["target"].isin(distinct["target"])]
    medians = prior.groupby("target")["feature_distance"].median()
    count = len(distinct)
    hits = int(distinct["evaluator_hit"].astype(bool).sum())
    closer = int((distinct["feature_distance"].to_numpy() < medians.reindex(distinct["target"]).to_numpy()).sum())
    prior_hits = int(same_classes["evaluator_hit"].astype(bool).sum())
    contingency = [[hits, count - hits], [prior_hits, len(same_classes) - prior_hits]]
    hit_p = float(stats.fisher_exact(contingency, alternative="greater").pvalue)
    distance_p = float(stats.binomtest(closer, count, 0.5, alternative="greater").pvalue)
    low, high = clopper_pearson(hits, count)
    return {
        "population": name,
        "attack": attack,
        "needs": needs.get(attack),
        "attackers": len(group),
        "reconstructions": count,
        "answered_queries": float(group["answered_queries"].median()),
        "shared_queries": float(_shared(group).median()),
        "target_queries": float((group["answered_queries"] - _shared(group)).median()),
        **_scores(distinct),
        "low": low,
        "high": high,
        "closer": closer,
        "hit_p_value": hit_p,
        "distance_p_value": distance_p,
        "works": bool(hit_p < LEVEL and distance_p < LEVEL),
    }


def _baseline(kind: str, group: pd.DataFrame) -> dict[str, Any]:
    not_applicable = ("attack", "needs", "low", "high", "closer", "hit_p_value", "distance_p_value", "works")
    return {
        "population": _BASELINES[kind],
        "attackers": len(group),
        "reconstructions": len(group),
        "answered_queries": float(group["query"].median()) if kind == LABELLED else 0.0,
        "shared_queries": float(group["query"].median()) if kind == LABELLED else 0.0,
        "target_queries": 0.0,
        **_scores(group),
        **dict.fromkeys(not_applicable),
    }


def _shared(group: pd.DataFrame) -> pd.Series:
    """Return the shared queries of each attacker; null in runs of earlier versions, which have no such attack."""
    return group["shared_queries"].fillna(0)


def _scores(group: pd.DataFrame) -> dict[str, Any]:
    hits = group["evaluator_hit"].astype(bool)
    return {
        "evaluator_hits": int(hits.sum()),
        "evaluator_hit_share": float(hits.mean()) if len(hits) else np.nan,
        "evaluator_confidence": float(group["evaluator_confidence"].mean()),
        "feature_distance": float(group["feature_distance"].median()),
    }


def write_benchmark(run: Folder, needs: Mapping[str, str]) -> None:
    """Compute `benchmark` and write it to ``attack_benchmark.parquet`` in the run folder."""
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
    """Print ``attack_benchmark.parquet``: attacks, baselines, and an explanation of the columns.

    Raises
    ------
    RunError
        If the run folder does not contain the file.
    """
    frame = read_benchmark(run)
    if frame is None:
        raise RunError(f"{run / 'attack_benchmark.parquet'}: file not found; expected a run that measured its attacks")
    out = console or Console(width=None if sys.stdout.isatty() else 140)
    table = Table(title="Undefended attacks", title_justify="left")
    for title in ("attack", "needs"):
        table.add_column(title)
    numbers = ("queries", "shared", "for one class", "evaluator hits", "95% interval", "confidence", "distance")
    for title in (*numbers, "closer", "works"):
        table.add_column(title, justify="right")
    previous_is_baseline = None
    for row in frame.to_dict("records"):
        baseline = missing(row["attack"])
        if baseline and previous_is_baseline is False:
            table.add_section()
        previous_is_baseline = baseline
        table.add_row(
            str(row["population"]),
            "" if missing(row["needs"]) else str(row["needs"]),
            f"{row['answered_queries']:,.0f}",
            f"{row['shared_queries']:,.0f}",
            f"{row['target_queries']:,.0f}",
            f"{percent(row['evaluator_hit_share'])} of {int(row['reconstructions'])}",
            "" if baseline else f"{percent(row['low'])} to {percent(row['high'])}",
            f"{row['evaluator_confidence']:.2f}",
            f"{row['feature_distance']:.2f}",
            "" if baseline else f"{int(row['closer'])} of {int(row['reconstructions'])}",
            "" if baseline else ("yes" if row["works"] else "[bold]no[/]"),
        )
    out.print(table)
    out.print(
        "needs: model output that the attack needs. queries: median number of answered queries per attacker. shared: "
        "those of them that are the same for every class under attack, so that an attacker of several classes sends "
        "them once. for one class: the others. evaluator hits: reconstructions that the evaluator classifies as their "
        "target. confidence: mean confidence of the evaluator in the target. distance: median distance to the nearest "
        "private image of the target class, in the evaluator's feature space. closer: reconstructions with a smaller "
        "distance than the median auxiliary image of that class. works: more hits than the auxiliary images (Fisher's "
        "exact test) and more than half closer (exact sign test), each one-sided at level "
        f"{LEVEL:.0%}. Identical reconstructions count once. The "
        "result is valid for this victim and this evaluator.",
        highlight=False,
    )
    _print_metrics(run, out)
    if frame["population"].eq(_BASELINES[LABELLED]).any():
        out.print(
            f"{_BASELINES[LABELLED]}: auxiliary images that the model labels as the target, after one query for each "
            "auxiliary image. The column works does not depend on them.",
            highlight=False,
        )
    if gap := labelled_gap(run):
        out.print(gap, highlight=False)
    for note in doubtful_accuracy(facts(run).get("victim") or {}):
        out.print(note, highlight=False, markup=False)
    out.print(f"Table: {run / 'attack_benchmark.parquet'}", highlight=False)


def _print_metrics(run: Folder, out: Console) -> None:
    """Print the literature's metrics of the undefended attacks and the baselines, if the run has them."""
    found = metrics(run, undefended(run))
    if found is None:
        return
    table = Table(title="Undefended attacks by the metrics of the literature", title_justify="left")
    table.add_column("attack")
    table.add_column("n", justify="right")
    table.add_column("evaluator", justify="right")
    for title, _ in found.columns:
        table.add_column(title, justify="right")
    for row in found.rows:
        cells = [cell.replace(" (", "\n(") for cell in row.cells]  # narrow columns
        table.add_row(row.name, row.reconstructions, found.evaluator_share, *cells)
    out.print(table)
    meanings = " ".join(f"{title}: {meaning}." for title, meaning in found.columns)
    out.print(
        f"evaluator: its own accuracy on the users' images, {found.evaluator}. {meanings} {found.neighbours}. {NEEDS}",
        highlight=False,
    )
    for sentence in sentences(verdicts(run)):
        out.print(sentence, highlight=False, markup=False)
    out.print(f"Table: {run / 'leakage_sets.parquet'}", highlight=False)
