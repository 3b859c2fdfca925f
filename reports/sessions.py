"""Comparison of two runs of the same study, session by session: which query was blocked, and what was answered."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mifsim.errors import RunError
from mifsim.tables.records import open_table
from mifsim.tables.storage import Folder
from reports import wording
from reports.tables import facts, sessions

MOST_LISTED = 40
"""Most sessions that are listed one by one."""

_END = ["outcome", "queries", "queries_to_block", "answered_queries"]


def compare_sessions(one: Folder, other: Folder) -> pd.DataFrame:
    """Compare the sessions that two runs have in common, such as those behind a guard with simulated ones.

    Parameters
    ----------
    one, other : Path or RemotePath
        Run folders of the same study and seed. The second one can have further filters.

    Returns
    -------
    DataFrame
        A row for each session of `one`: ``session_id``, ``population``, ``role``; ``outcome``, ``queries``,
        ``queries_to_block`` and ``answered_queries``, also with the suffix ``_other``; ``labels_differ``, the number of
        queries whose verdicts or labels differ; ``confidence_difference``, the largest absolute difference of two
        confidences in the label (NaN if none was shown), both rounded under the response policy ``rounded-D``; and
        ``same``: whether the session ended alike, at the same query, and all verdicts and labels are equal.

    Raises
    ------
    RunError
        If a folder is not a run folder, or a session of `one` is missing in `other`.
    """
    for key in ("study", "seed"):
        if facts(one).get(key) != facts(other).get(key):
            raise RunError(
                f"compare: {one} has {key} {facts(one).get(key)!r}, {other} has {facts(other).get(key)!r} (expected: "
                "runs of the same study and seed)"
            )
    ends, others = (sessions(run).astype({"outcome": str, "session_id": str}) for run in (one, other))
    found = ends[["session_id", "population", "role", *_END]].merge(
        others[["session_id", *_END]], on="session_id", how="left", suffixes=("", "_other")
    )
    missing = found["outcome_other"].isna()
    if missing.any():
        raise RunError(
            f"compare: {other} has no session {found.loc[missing, 'session_id'].iloc[0]!r} (expected: a run of the "
            "same study with the filter of the first run)"
        )
    found = found.merge(_answers(one, other), on="session_id", how="left")
    found["labels_differ"] = found["labels_differ"].fillna(0).astype(int)
    alike = [found[key].fillna(-1) == found[f"{key}_other"].fillna(-1) for key in _END[1:]]
    found["same"] = (found["outcome"] == found["outcome_other"]) & np.all(alike, axis=0) & (found["labels_differ"] == 0)
    return found


def print_sessions(table: pd.DataFrame, names: tuple[str, str], console: Console | None = None) -> None:
    """Print the comparison: the blocked and the differing sessions one by one, and a line for each population.

    Parameters
    ----------
    table : DataFrame
        See `compare_sessions`.
    names : tuple of str
        Names of the two runs.
    console : Console, optional
    """
    out = console or Console(width=None if sys.stdout.isatty() else 120)
    listed = table[table["outcome"].eq("blocked") | table["outcome_other"].eq("blocked") | ~table["same"]]
    listed = listed.sort_values("same", kind="stable").head(MOST_LISTED).sort_index()
    if len(listed):
        shown = Table(title="Blocked sessions, and those that differ", title_justify="left")
        shown.add_column("session")
        for name in names:
            shown.add_column(Text(name), justify="right")
        shown.add_column("the same")
        for row in listed.to_dict("records"):
            cells = [str(row["session_id"]), _end(row, ""), _end(row, "_other"), "yes" if row["same"] else "NO"]
            shown.add_row(*(Text(cell) for cell in cells))
        out.print(shown)
    shown = Table(title="All sessions", title_justify="left")
    shown.add_column("population")
    for title in ("sessions", f"blocked: {names[0]}", names[1], "queries", "differing answers", "differing sessions"):
        shown.add_column(Text(title), justify="right")
    for population, group in table.groupby("population", sort=False):
        numbers = (
            len(group), group["outcome"].eq("blocked").sum(), group["outcome_other"].eq("blocked").sum(),
            group["queries"].sum(), group["labels_differ"].sum(), (~group["same"]).sum(),
        )  # fmt: skip
        shown.add_row(Text(str(population)), *(f"{int(number):,}" for number in numbers))
    out.print(shown)
    largest = table["confidence_difference"].max()
    stated = (
        "no confidence was shown" if wording.missing(largest) else f"largest difference of confidences: {largest:g}"
    )
    out.print(f"{int(table['same'].sum()):,} of {len(table):,} sessions are the same; {stated}")


def _answers(one: Folder, other: Folder) -> pd.DataFrame:
    """Return the differences of the answers by session."""
    keys = ["session_id", "query"]
    columns = [*keys, "verdict", "label", "confidence"]
    tables = []
    for run in (one, other):
        frame = open_table(run, "queries").to_table(columns=columns).to_pandas()
        tables.append(frame.astype({"session_id": str, "verdict": str}))
    both = tables[0].merge(tables[1], on=keys, how="left", suffixes=("", "_other"))
    differ = both["verdict"].ne(both["verdict_other"]) | both["label"].fillna(-1).ne(both["label_other"].fillna(-1))
    shown = [both[name] for name in ("confidence", "confidence_other")]
    if (decimals := _decimals(one)) is not None:
        shown = [values.astype("float32").round(decimals) for values in shown]
        # A vector of rounded confidences has no label: over HTTP, clients take the first of equal ones.
        differ &= both["verdict"].ne(both["verdict_other"]) | shown[0].ne(shown[1])
    both["labels_differ"] = differ
    both["confidence_difference"] = (shown[0].astype(float) - shown[1].astype(float)).abs()
    found = both.groupby("session_id").agg({"labels_differ": "sum", "confidence_difference": "max"})
    result: pd.DataFrame = found.reset_index()
    return result


def _decimals(run: Folder) -> int | None:
    """Return the decimals of the confidences that clients received; None: they were not rounded."""
    response = tomllib.loads((run / "study.toml").read_text(encoding="utf-8"))["server"]["response"]
    kind, _, decimals = response.partition("-")
    return int(decimals) if kind == "rounded" else None


def _end(row: Mapping[Any, Any], suffix: str) -> str:
    if row["outcome" + suffix] == "blocked":
        return f"blocked at query {int(row['queries_to_block' + suffix]):,}"
    return f"{row['outcome' + suffix]} after {int(row['queries' + suffix]):,}"
