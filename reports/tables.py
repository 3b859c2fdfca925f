"""Result tables of a run: blocked sessions, queries to block, false positives and leakage.

Each function reads the Parquet files of the run folder. All of them raise `mifsim.errors.RunError` if a file is
missing that every run has, or if a file is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from mifsim.errors import RunError
from mifsim.statistics import Survival, kaplan_meier, queries_until_stopped, rate_interval
from mifsim.tables.records import open_table, read_single, read_table
from mifsim.tables.storage import Folder


def sessions(run: Folder) -> pd.DataFrame:
    """Return the sessions of attackers and users, one row per session, in the order of the study."""
    frame: pd.DataFrame = open_table(run, "sessions").to_table().to_pandas()
    return frame


def leakage(run: Folder) -> pd.DataFrame | None:
    """Return the leakage scores, one row per scored reconstruction; None if the run has no scores."""
    return read_table(run, "leakage").to_pandas() if (run / "leakage").is_dir() else None


def attack_table(run: Folder) -> pd.DataFrame:
    """Return blocked attackers, queries to block and leakage, one row per filter and attack.

    Returns
    -------
    DataFrame
        The unit is the attacker; see `attackers`. Columns:

        * ``filter``, ``attack``
        * ``sessions``, ``blocked``, ``failed``: numbers of attackers
        * ``sessions_used``, ``clients_used``, ``queries_spent``: means per attacker
        * ``median_queries_to_block``: Kaplan-Meier estimate; NaN if fewer than half of the attackers were blocked
        * ``restricted_mean_queries``: mean queries to block, restricted to the budget ``budget_queries``
        * ``victim_confidence``: mean confidence in the target at the last answered query, in [0, 1]
        * ``evaluator_hit_share``, ``evaluator_confidence``, ``feature_distance``: mean leakage scores of the last
          reconstructions; absent if the run has no scores
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
    """Aggregate the sessions of each attacker and filter into one row.

    A closed-loop attacker may continue in another session after a refusal, and may have several sessions open at once.
    It counts as blocked if it gave up, at the total number of queries of its sessions; see
    `mifsim.statistics.queries_until_stopped`.

    Parameters
    ----------
    rows : DataFrame
        As `sessions` returns it.

    Returns
    -------
    DataFrame
        The columns of the attacker's last session, the one of its last query, except that ``outcome``, ``queries``
        and ``queries_to_block`` are totals over all its sessions; also ``sessions_used`` and ``clients_used``.
    """
    attacks = rows[rows["role"] == "attacker"].reset_index(drop=True)
    of_one = attacks.groupby(["filter", "client_id"], observed=True, sort=False)
    attacks["sessions_used"] = of_one["session_id"].transform("size")
    attacks["clients_used"] = of_one["client_number"].transform("max")
    last_query = attacks.get("last_query", pd.Series(np.nan, attacks.index)).to_numpy(dtype=float, na_value=np.nan)
    attacks["outcome"] = attacks["outcome"].astype(str)  # "exhausted" below may not be among the categories
    for opened in map(np.asarray, of_one.indices.values()):
        if len(opened) == 1:
            continue
        # A stable sort: sessions of runs without the column stay in the order in which they were opened.
        places = opened[np.argsort(last_query[opened], kind="stable")]
        group, last = attacks.loc[places], places[-1]
        spent = list(zip(group["outcome"].astype(str), group["queries"], strict=True))
        stopped = queries_until_stopped(spent, int(group["budget_queries"].iloc[0]))
        if stopped is None and group.at[last, "outcome"] == "blocked":
            attacks.at[last, "outcome"] = "exhausted"
        # The row replaces that of the first session, which keeps the order of the study.
        attacks.loc[opened[0]] = attacks.loc[last].to_dict() | {
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
    """Return the Kaplan-Meier survival curve of attackers that share a query budget.

    Attackers that finished or used up their budget were not blocked: they are censored at the budget.

    Parameters
    ----------
    group : DataFrame
        Rows of `attackers`.
    """
    blocked = group["outcome"].eq("blocked").to_numpy()
    budget = int(group["budget_queries"].iloc[0])
    queries = np.where(blocked, group["queries_to_block"].fillna(budget), budget).astype(float)
    return kaplan_meier(queries, blocked)


def user_table(run: Folder, confidence: float = 0.95) -> pd.DataFrame:
    """Return false-positive rates with exact intervals, one row per filter and workload.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    confidence : float
        Confidence of the intervals, in (0, 1).

    Returns
    -------
    DataFrame
        Columns ``filter``, ``workload``, ``sessions`` (without failed ones), ``blocked``, ``false_positive_rate`` in
        [0, 1], ``low`` and ``high`` (Clopper-Pearson), ``mean_queries``, ``failed``, and ``worst``: whether the rate
        is above 0 and no workload of the filter has a higher one. For a log, ``lost_share`` is the share of its rows
        that are unusable, in [0, 1]; null for other workloads. If clients have several sessions, the interval is that
        of as many sessions as there are clients, because sessions of one client are alike.
    """
    rows = sessions(run)
    logs = facts(run).get("logs") or {}
    table: list[dict[str, Any]] = []
    for (filter_, workload), group in _groups(rows[rows["role"] == "user"]):
        done = group[group["outcome"] != "failed"]
        blocked = int(done["outcome"].eq("blocked").sum())
        low, high = rate_interval(blocked, len(done), int(done["client_id"].nunique()), confidence)
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
                "lost_share": logs.get(str(workload), {}).get("lost_share", np.nan),
            }
        )
    frame = pd.DataFrame(table)
    if len(frame):
        rates = frame["false_positive_rate"]
        worst = rates.groupby(frame["filter"]).transform("max")
        frame["worst"] = rates.eq(worst) & rates.gt(0)
    return frame


def facts(run: Folder) -> dict[str, Any]:
    """Return the content of ``run.json``.

    Raises
    ------
    RunError
        If the file is missing or damaged.
    """
    try:
        found: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{run}: not a run folder; expected a folder with a file run.json") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{run / 'run.json'}: cannot be read: {error}; expected a JSON object") from None
    return found


def failures(run: Folder) -> pd.DataFrame:
    """Return ``session_id`` and ``error`` of the failed sessions."""
    rows = sessions(run)
    return rows.loc[rows["outcome"] == "failed", ["session_id", "error"]]


def filter_table(run: Folder) -> pd.DataFrame:
    """Return ``kind`` and ``config`` (JSON) of each filter, indexed by its name."""
    columns = ["filter", "kind", "config"]
    table = _plain(open_table(run, "sessions").to_table(columns=columns)).drop_duplicates("filter")
    return table.set_index("filter")


def trial_table(run: Folder) -> pd.DataFrame | None:
    """Return the trials of the search in the order of their numbers; None if the run has no search."""
    if not (run / "trials").is_dir():
        return None
    return _plain(open_table(run, "trials").to_table()).sort_values("trial", ignore_index=True)


def pareto_table(run: Folder) -> pd.DataFrame | None:
    """Return the Pareto front, the reference front, and the candidate and given configurations.

    None if the run has no Pareto front.
    """
    return _single_file(run, "pareto")


def certification_table(run: Folder) -> pd.DataFrame | None:
    """Return the test results on the calibration split by candidate and workload; None if nothing was tested."""
    return _single_file(run, "certification")


def leave_out_table(run: Folder) -> pd.DataFrame | None:
    """Return the results of the calibrations with one workload left out; None if the run has none."""
    return _single_file(run, "leave_out")


def benchmark_table(run: Folder) -> pd.DataFrame | None:
    """Return the attack benchmark; None if the run has none."""
    return _single_file(run, "attack_benchmark")


def leakage_sets_table(run: Folder) -> pd.DataFrame | None:
    """Return the literature's metrics by filter and attack, and of the baselines; None if the run has none."""
    return _single_file(run, "leakage_sets")


def last_guesses(run: Folder) -> pd.DataFrame | None:
    """Return the reconstructions at the last answered query; None if the run has no snapshots.

    Returns
    -------
    DataFrame
        One row per population, target and filter, for the first attacker among them. The columns of ``snapshots``,
        and ``population``, ``filter``, ``trial``, ``outcome`` and ``queries`` of ``sessions``.
    """
    if not (run / "snapshots").is_dir():
        return None
    rows = sessions(run)
    attacks = rows[rows["role"] == "attacker"].sort_values("trial", kind="stable")
    firsts = attacks.drop_duplicates(["population", "target", "filter"])
    found = _plain(open_table(run, "snapshots").to_table(filter=ds.field("last")))
    columns = firsts[["session_id", "population", "filter", "trial", "outcome", "queries"]]
    return found.merge(columns, on="session_id", how="inner")


def _single_file(run: Folder, table: str) -> pd.DataFrame | None:
    path = run / f"{table}.parquet"
    if not path.is_file():
        return None
    return _plain(read_single(path, table))


def _plain(table: pa.Table) -> pd.DataFrame:
    """Convert a table to pandas with strings in place of categories, which would add empty groups to a groupby."""
    columns = {
        name: table[name].cast(pa.string()) if pa.types.is_dictionary(table[name].type) else table[name]
        for name in table.column_names
    }
    frame: pd.DataFrame = pa.table(columns).to_pandas()
    return frame
