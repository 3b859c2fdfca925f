"""The page of a board, which works offline, and its README; both are made from the table alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports.page import load_template
from reports.paper.markdown import table as markdown_table
from reports.wording import ABSENT, count, limit, missing, percent

SHOWN = (
    ("data_set", "data set", "choice"),
    ("study", "study", "choice", "only to filter"),
    ("detector", "detector", "choice"),
    ("guarantee_short", "guarantee for honest users", "text"),
    ("worst_rate", "worst workload, test sessions blocked", "share"),
    ("unseen_rate", "worst users not calibrated for, blocked", "share"),
    ("scope", "state kept for", "choice"),
    ("attack", "attack", "choice"),
    ("evasion", "evasions", "choice"),
    ("knows_detector", "knows the detector", "yes"),
    ("stopped", "stopped", "yes"),
    ("stopped_labelled", "stopped, labelled baseline", "yes"),
    ("blocked", "attackers blocked", "of attackers"),
    ("attackers", "attackers", "number", "only to filter"),
    ("low", "95% interval of the share", "interval"),
    ("high", "high", "share", "only to filter"),
    ("mean_queries", "mean queries to block", "queries"),
    ("budget_queries", "budget", "number"),
    ("leakage_at_block", "leakage at block", "leakage"),
    ("leakage_undefended", "undefended", "leakage"),
    ("run_id", "run", "text", "only to filter"),
)
"""Columns of the page's table: name, title, and how they are shown; some are only there for filters and other cells."""
_SUMMED = ["data_set", "study", "detector"]


def render_page(table: pd.DataFrame) -> str:
    """Return the page of a board as HTML: one file without external resources.

    Parameters
    ----------
    table : DataFrame
        The table ``board``.
    """
    met = table[table["attack"].notna()]
    return load_template("board.html.j2").render(
        data=page_data(met),
        rows=len(met),
        runs=_runs(table),
        detectors=_detectors(met),
        without=table[table["attack"].isna()][["data_set", "study", "detector", "guarantee"]].to_dict("records"),
    )


def page_data(met: pd.DataFrame) -> str:
    """Return the rows of the page as JSON, column by column; text is stored once, and referred to by number.

    The characters ``<``, ``>`` and ``&`` are escaped, so that the text can stand in a script element.
    """
    columns = []
    shown = met.assign(guarantee_short=[_short(row) for row in met.to_dict("records")])
    for name, title, kind, *hidden in SHOWN:
        column: dict[str, Any] = {"name": name, "title": title, "kind": kind, "hidden": bool(hidden)}
        values = shown[name].tolist()
        if kind in ("choice", "text"):
            column["words"] = list(dict.fromkeys(values))
            places = {word: number for number, word in enumerate(column["words"])}
            column["values"] = [places[value] for value in values]
        else:
            column["values"] = [_plain(value) for value in values]
        columns.append(column)
    text = json.dumps({"columns": columns}, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    """Return a number with five significant digits, which is more than the page shows; None if it is missing."""
    if missing(value):
        return None
    if isinstance(value, bool):
        return int(value)
    return int(value) if float(value).is_integer() else float(f"{value:.5g}")


def _short(row: Mapping[Any, Any]) -> str:
    if not row["certified"]:
        return "none"
    workloads = count(int(row["workloads"]), "workload")
    return f"≤ {limit(row['limit'])} of {workloads}, with {100 * row['confidence']:.4g}% confidence"


def _runs(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what identifies each run, and what was checked."""
    found = table.drop_duplicates("run_id").to_dict("records")
    return [
        {str(name): value for name, value in row.items()}
        | {"rows": int(table["run_id"].eq(row["run_id"]).sum()), "versions": ", ".join(_versions(row))}
        for row in found
    ]


def _versions(row: Mapping[Any, Any]) -> list[str]:
    return [f"{name} {version}" for name, version in json.loads(row["versions"]).items()]


def _detectors(met: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row for each data set, study and detector: its guarantee, and its cells stopped by scope."""
    rows = []
    for _, group in met.groupby(_SUMMED, sort=False):
        first = group.iloc[0]
        row = {name: first[name] for name in (*_SUMMED, "kind", "certified", "guarantee", "configuration")}
        for users in ("worst", "unseen"):
            row[users] = ABSENT
            if not missing(first[f"{users}_workload"]):
                row[users] = f"{percent(first[f'{users}_rate'])} of {first[f'{users}_workload']}"
        row["counts"] = [_count(group, scope, knows) for scope in ("client", "session") for knows in (False, True)]
        rows.append(row)
    return rows


def _count(group: pd.DataFrame, scope: str, knows: bool) -> str:
    chosen = group[group["scope"].eq(scope) & group["knows_detector"].eq(knows)]
    return f"{int(chosen['stopped'].sum())} of {len(chosen)}" if len(chosen) else ABSENT


def render_readme(table: pd.DataFrame, shown: str) -> str:
    """Return ``README.md`` of a board.

    Parameters
    ----------
    table : DataFrame
        The table ``board``.
    shown : str
        The board's folder, for commands.
    """
    met = table[table["attack"].notna()]
    head = ["data set", "detector", "certified", "stopped, state of the client", "if they know the detector"]
    head += ["stopped, state of the session", "if they know it", "worst workload, test sessions blocked"]
    lines = [
        [
            *(_escaped(row["data_set"]), f"`{row['detector']}`", "yes" if row["certified"] else "no"),
            *row["counts"],
            _escaped(row["worst"]),
        ]
        for row in _detectors(met)
    ]
    return load_template("board.md.j2").render(
        shown=shown,
        rows=len(met),
        runs=_runs(table),
        detector_table=markdown_table(head, lines, left=2) if lines else "No run has been added.",
        without=table[table["attack"].isna()][["data_set", "detector", "guarantee"]].to_dict("records"),
    )


def _escaped(text: Any) -> str:
    return str(text).replace("|", "\\|")
