"""The tables of a run: who was blocked, after how many queries, and what the attacker held by then."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from mifsim.errors import RunError
from mifsim.statistics import Survival, clopper_pearson, kaplan_meier, queries_until_stopped
from mifsim.tables.records import open_table, read_single, read_table
from mifsim.tables.storage import Folder


def sessions(run: Folder) -> pd.DataFrame:
    """Return one row a session, attacks and users, filters and populations in the order of the study."""
    frame: pd.DataFrame = open_table(run, "sessions").to_table().to_pandas()
    return frame


def leakage(run: Folder) -> pd.DataFrame | None:
    """Return one row a scored guess; None where the run scored none."""
    return read_table(run, "leakage").to_pandas() if (run / "leakage").is_dir() else None


def attack_table(run: Folder) -> pd.DataFrame:
    """Return, for each filter and attack, how many were blocked, when, and what they held.

    Returns
    -------
    DataFrame
        One row a filter and attack. Its unit is the attacker: see `attackers`. Columns ``filter``, ``attack``,
        ``sessions`` (attackers), ``sessions_used``, ``clients_used``, ``queries_spent`` (means of one attacker),
        ``blocked``,
        ``median_queries_to_block`` (Kaplan-Meier; NaN where fewer than half were blocked),
        ``restricted_mean_queries`` (each attacker counted as its budget at most), ``budget_queries``, ``failed``, and
        at the last answered query ``victim_confidence``, ``evaluator_hit_share``, ``evaluator_confidence``,
        ``feature_distance`` (means).
    """
    attacks = attackers(sessions(run))
    scores = leakage(run)
    last = None if scores is None else scores[scores["last"]].set_index("session_id")
    table = [
        {"filter": filter_, "attack": attack, **_attack_row(group, last)}
        for (filter_, attack), group in _groups(attacks)
    ]
    return pd.DataFrame(table)


def attackers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row an attacker and filter, of `sessions` rows: the last session of each, with what all cost.

    An attacker that is refused may go on in another session. It counts as blocked where it gave up, at the sum of its
    sessions' queries; see `mifsim.statistics.queries_until_stopped`.

    Returns
    -------
    DataFrame
        The columns of `rows`, ``outcome``, ``queries`` and ``queries_to_block`` being the attacker's, and
        ``sessions_used`` and ``clients_used``.
    """
    attacks = rows[rows["role"] == "attacker"].reset_index(drop=True)
    of_one = attacks.groupby(["filter", "client_id"], observed=True, sort=False)
    attacks["sessions_used"] = of_one["session_id"].transform("size")
    attacks["clients_used"] = of_one["client_number"].transform("max")
    attacks["outcome"] = attacks["outcome"].astype(str)  # a category that nobody had yet may come in
    for places in of_one.indices.values():
        if len(places) == 1:
            continue
        group, last = attacks.loc[places], places[-1]
        spent = list(zip(group["outcome"].astype(str), group["queries"], strict=True))
        stopped = queries_until_stopped(spent, int(group["budget_queries"].iloc[0]))
        if stopped is None and group.at[last, "outcome"] == "blocked":
            attacks.at[last, "outcome"] = "exhausted"
        # In the place of its first session: what is shown is in the study's order.
        attacks.loc[places[0]] = attacks.loc[last].to_dict() | {
            "queries": group["queries"].sum(),
            "queries_to_block": np.nan if stopped is None else stopped,
        }
    return attacks[~attacks.duplicated(["filter", "client_id"])]


def _groups(rows: pd.DataFrame) -> Iterable[tuple[tuple[str, str], pd.DataFrame]]:
    for filter_ in rows["filter"].unique():
        of_filter = rows[rows["filter"] == filter_]
        for population in of_filter["population"].unique():
            yield (str(filter_), str(population)), of_filter[of_filter["population"] == population]


def _attack_row(group: pd.DataFrame, last: pd.DataFrame | None) -> dict[str, Any]:
    failed = int(group["outcome"].eq("failed").sum())
    budget = int(group["budget_queries"].iloc[0])
    survival = survival_of(group)
    median = survival.median
    row: dict[str, Any] = {
        "sessions": len(group),
        "sessions_used": float(group["sessions_used"].mean()),
        "clients_used": float(group["clients_used"].mean()),
        "queries_spent": float(group["queries"].mean()),
        "blocked": int(group["outcome"].eq("blocked").sum()),
        "median_queries_to_block": np.nan if median is None else median,
        "restricted_mean_queries": survival.restricted_mean(budget),
        "budget_queries": budget,
        "victim_confidence": float(group["target_confidence"].mean()),
        "failed": failed,
    }
    if last is not None:
        leaked = last.reindex(group["session_id"]).dropna(subset=["evaluator_confidence"])
        row["evaluator_hit_share"] = float(leaked["evaluator_hit"].astype(bool).mean()) if len(leaked) else np.nan
        row["evaluator_confidence"] = float(leaked["evaluator_confidence"].mean())
        row["feature_distance"] = float(leaked["feature_distance"].mean())
    return row


def survival_of(group: pd.DataFrame) -> Survival:
    """Return the survival curve of some attackers (rows of `attackers`) of one budget.

    An attacker that finished, or ran out of its budget, was never blocked: censored at the budget.
    """
    blocked = group["outcome"].eq("blocked").to_numpy()
    budget = int(group["budget_queries"].iloc[0])
    queries = np.where(blocked, group["queries_to_block"].fillna(budget), budget).astype(float)
    return kaplan_meier(queries, blocked)


def user_table(run: Folder, confidence: float = 0.95) -> pd.DataFrame:
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


def baseline_table(run: Folder) -> pd.DataFrame | None:
    """Return what guesses without a single query score: the floors that leakage is compared with."""
    scores = leakage(run)
    if scores is None:
        return None
    baselines = scores[scores["kind"] != "attack"]
    columns = ["evaluator_hit", "evaluator_confidence", "feature_distance", "ssim_nearest", "psnr_nearest_db"]
    return baselines.groupby("kind", observed=True)[columns].mean().reset_index()


def facts(run: Folder) -> dict[str, Any]:
    """Return what ``run.json`` says.

    Raises
    ------
    RunError
        Where there is none, or it is not whole.
    """
    try:
        found: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{run}: is no run folder: it has no run.json") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{run / 'run.json'}: cannot be read: {error}") from None
    return found


def failures(run: Folder) -> pd.DataFrame:
    """Return the sessions whose client raised, with the message."""
    rows = sessions(run)
    return rows.loc[rows["outcome"] == "failed", ["session_id", "error"]]


def filter_table(run: Folder) -> pd.DataFrame:
    """Return one row a filter: its name (the index), ``kind``, and ``config`` (its configuration as JSON)."""
    columns = ["filter", "kind", "config"]
    table = _plain(open_table(run, "sessions").to_table(columns=columns)).drop_duplicates("filter")
    return table.set_index("filter")


def trial_table(run: Folder) -> pd.DataFrame | None:
    """Return the search's trials in the order of their proposals; None where the run searched nothing."""
    if not (run / "trials").is_dir():
        return None
    return _plain(open_table(run, "trials").to_table()).sort_values("trial", ignore_index=True)


def pareto_table(run: Folder) -> pd.DataFrame | None:
    """Return the configurations that no other beats, and those given; None where the run has no Pareto front."""
    return _single_file(run, "pareto")


def certification_table(run: Folder) -> pd.DataFrame | None:
    """Return what each candidate did on the calibration split, by workload; None where nothing was tested."""
    return _single_file(run, "certification")


def benchmark_table(run: Folder) -> pd.DataFrame | None:
    """Return the benchmark of attacks; None where the run measured none."""
    return _single_file(run, "attack_benchmark")


def last_guesses(run: Folder) -> pd.DataFrame | None:
    """Return what attackers held at their last answered query; None where the run kept no snapshot.

    Returns
    -------
    DataFrame
        One row a session: the columns of ``snapshots``, and of ``sessions`` ``population``, ``filter``, ``trial``,
        ``outcome``, ``queries``. Of each population, target and filter the first trial alone.
    """
    if not (run / "snapshots").is_dir():
        return None
    rows = sessions(run)
    attacks = rows[rows["role"] == "attacker"].sort_values("trial", kind="stable")
    firsts = attacks.drop_duplicates(["population", "target", "filter"])
    found = _plain(open_table(run, "snapshots").to_table(filter=ds.field("last")))
    facts_of = firsts[["session_id", "population", "filter", "trial", "outcome", "queries"]]
    return found.merge(facts_of, on="session_id", how="inner")


def _single_file(run: Folder, table: str) -> pd.DataFrame | None:
    path = run / f"{table}.parquet"
    if not path.is_file():
        return None
    return _plain(read_single(path, table))


def _plain(table: pa.Table) -> pd.DataFrame:
    """Return a table for pandas with words as text, not as categories: groups are then those that occur."""
    columns = {
        name: table[name].cast(pa.string()) if pa.types.is_dictionary(table[name].type) else table[name]
        for name in table.column_names
    }
    frame: pd.DataFrame = pa.table(columns).to_pandas()
    return frame
