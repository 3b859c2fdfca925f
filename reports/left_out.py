"""The results for workloads that were left out of the calibration, on the page and on the terminal."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from rich.console import Console
from rich.table import Table

from mifsim.tables.storage import Folder
from reports.styles import CALIBRATED
from reports.tables import leave_out_table, pareto_table, user_table
from reports.verdict import calibration_section
from reports.wording import ABSENT, count, describe, limit, listed, percent, queries

_REST = "The guarantee of a configuration covers only the workloads with which it was calibrated."


@dataclass(frozen=True)
class LeftOutRow:
    """A workload that was left out, with formatted results of the configuration chosen without it.

    Attributes
    ----------
    workload : str
    blocked, rate, interval : str
        Its sessions blocked in the calibration and the test split, their share, and the exact interval.
    limit : str
        Limit of the false-positive rate.
    test : str
        Sessions blocked in the test split alone.
    included : str
        Sessions blocked in the test split by the configuration calibrated with all workloads.
    queries : str
        Mean queries until attacks are blocked, on the search split.
    config : str
        The configuration; a reason if none was certified.
    above_limit : bool
        Whether the share is above the limit.
    """

    workload: str
    blocked: str
    rate: str
    interval: str
    limit: str
    test: str
    included: str
    queries: str
    config: str
    above_limit: bool


@dataclass(frozen=True)
class LeftOutResults:
    """The results of all workloads.

    Attributes
    ----------
    warning : str
        What users of other workloads must expect, with the worst number.
    rows : tuple of LeftOutRow
    confidence : str
        Confidence of the intervals.
    queries : str
        Mean queries until attacks are blocked by the configuration calibrated with all workloads.
    """

    warning: str
    rows: tuple[LeftOutRow, ...]
    confidence: str
    queries: str


def left_out_results(run: Folder) -> LeftOutResults | None:
    """Return the results of a run; None if it left out no workload.

    Raises
    ------
    RunError
        If a table is damaged.
    """
    table = leave_out_table(run)
    if table is None or table.empty:
        return None
    confidence = f"{100 * float(calibration_section(run).get('confidence', 0.95)):.4g}%"
    included = _included(run)
    pareto = pareto_table(run)
    chosen = None if pareto is None else pareto[pareto["chosen"].eq(True)]
    return LeftOutResults(
        warning(table, confidence),
        tuple(_row(row, included.get(str(row["workload"]), ABSENT)) for _, row in table.iterrows()),
        confidence,
        ABSENT if chosen is None or chosen.empty else queries(float(chosen.iloc[0]["queries_to_block"])),
    )


def warning(table: pd.DataFrame, confidence: str) -> str:
    """Return what users of a workload must expect that was not calibrated for, with the worst number.

    Parameters
    ----------
    table : DataFrame
        See `reports.tables.leave_out_table`.
    confidence : str
        Confidence of the intervals, such as ``"95%"``.
    """
    certified = table[table["certified"].eq(True)]
    names = [str(name) for name in table.loc[~table["certified"].eq(True), "workload"]]
    others = f" Without {listed(names)}, no configuration was certified." if names else ""
    if certified.empty:
        return (
            f"With one workload left out, no configuration was certified ({listed(names)}). {_REST} Nothing is known "
            "about other workloads."
        )
    worst = certified.sort_values(["false_positive_rate", "high"], ascending=False, kind="stable").iloc[0]
    numbers = (
        f"{int(worst['blocked']):,} of the {count(int(worst['sessions']), 'session')} of {worst['workload']}, "
        f"{percent(worst['false_positive_rate'])} ({confidence} interval {percent(worst['low'])} to "
        f"{percent(worst['high'])})"
    )
    above = int((certified["false_positive_rate"] > certified["limit"]).sum())
    if not above:
        return (
            f"Each workload was left out of the calibration in turn. In the worst case, the configuration calibrated "
            f"without it blocks {numbers}; no rate is above its limit. {_REST} Users who differ more from them may be "
            f"blocked more often.{others}"
        )
    return (
        f"Users of a workload that was not calibrated for may be blocked far more often than the limit states: "
        f"calibrated without {worst['workload']}, the configuration blocks {numbers}; the limit is "
        f"{limit(float(worst['limit']))}. Of {count(len(certified), 'workload')} left out in turn, {above} "
        f"{'is' if above == 1 else 'are'} blocked above the limit. {_REST}{others}"
    )


def print_left_out(run: Folder, out: Console) -> None:
    """Print the results as a table; nothing if the run left out no workload."""
    found = left_out_results(run)
    if found is None:
        return
    table = Table(title="Workloads left out of the calibration", title_justify="left")
    table.add_column("calibrated without")
    for name in ("blocked", "false-positive rate", f"{found.confidence} interval", "limit", "queries to block"):
        table.add_column(name, justify="right")
    for row in found.rows:
        rate = row.rate + (" (above the limit)" if row.above_limit else "")
        table.add_row(row.workload, row.blocked, rate, row.interval, row.limit, row.queries)
    out.print(table)
    out.print(found.warning, highlight=False)


def _row(found: pd.Series, included: str) -> LeftOutRow:
    allowed = limit(float(found["limit"]))
    if not found["certified"]:
        blanks = dict.fromkeys(("rate", "interval", "test", "queries"), ABSENT)
        reason = str(found["why_none"])
        return LeftOutRow(
            workload=str(found["workload"]), blocked="none certified", limit=allowed, included=included, config=reason,
            above_limit=False, **blanks,
        )  # fmt: skip
    return LeftOutRow(
        workload=str(found["workload"]),
        blocked=f"{int(found['blocked']):,} of {int(found['sessions']):,}",
        rate=percent(found["false_positive_rate"]),
        interval=f"{percent(found['low'])} to {percent(found['high'])}",
        limit=allowed,
        test=f"{int(found['test_blocked']):,} of {int(found['test_sessions']):,}",
        included=included,
        queries=queries(found["queries_to_block"]),
        config=describe(found),
        above_limit=bool(found["false_positive_rate"] > found["limit"]),
    )


def _included(run: Folder) -> dict[str, str]:
    """Return how many live sessions of each workload are blocked by the configuration calibrated with all of them."""
    users = user_table(run)
    rows = users[users["filter"].eq(CALIBRATED)] if len(users) else users
    return {
        str(row["workload"]): f"{int(row['blocked']):,} of {int(row['sessions']):,}" for row in rows.to_dict("records")
    }
