"""The attacks of an audit: which were stopped, after how many queries, and what they had obtained."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from reports.audit.evidence import Evidence
from reports.wording import ABSENT, count, missing, queries


def adapted(found: Evidence) -> pd.DataFrame:
    """Return the rows of attacks with evasions."""
    rows = found.attacks
    return rows[rows["evasion"].astype(str).ne("")] if len(rows) else rows


def not_stopped(found: Evidence) -> pd.DataFrame:
    """Return the rows of attacks that the detector did not stop, those with the fewest blocked attackers first."""
    rows = found.attacks
    if not len(rows):
        return rows
    share = rows["blocked"] / rows["attackers"]
    return rows.assign(share=share)[~rows["stopped"].eq(True)].sort_values("share", kind="stable")


def stopped_text(rows: pd.DataFrame) -> str:
    """Return the number of rows that are stopped, from both kinds of baselines."""
    text = f"{int(rows['stopped'].sum()):,} of {len(rows):,} stopped"
    if rows["stopped_labelled"].isna().any() or (rows["stopped_labelled"].eq(True) == rows["stopped"]).all():
        return text
    return f"{text} ({int(rows['stopped_labelled'].sum()):,} if measured from one labelled auxiliary image)"


def block_text(found: Evidence) -> str:
    """Return after how many queries the fastest and the slowest attack are blocked, without evasions if possible."""
    bare = found.attacks[found.attacks["evasion"].astype(str).eq("")]
    rows = found.attacks if bare.empty else bare
    ordered = rows.sort_values("mean_queries", kind="stable")
    first, last = ordered.iloc[0], ordered.iloc[-1]
    slowest = f", and {last['attack']} after {_queries(last)}" if len(ordered) > 1 else ""
    counted = count(len(ordered), "combination" if bare.empty else "attack")
    return (
        f"{first['attack']} is blocked after {_queries(first)} queries on average{slowest} ({counted} "
        f"{'with' if bare.empty else 'without'} evasions)."
    )


def leakage_text(found: Evidence) -> str:
    """Return what the attack leaks that has leaked most at its block, undefended, and without an attack."""
    rows = found.attacks[found.attacks["leakage_at_block"].notna()]
    if rows.empty:
        return "The run does not say what the attackers had obtained when they were blocked."
    worst = rows.iloc[int(rows["leakage_at_block"].to_numpy().argmax())]
    name = f"{worst['attack']}{' + ' + worst['evasion'] if worst['evasion'] else ''}"
    text = (
        f"A second classifier's mean confidence in the target, for the last reconstructions: at most "
        f"{_confidence(worst['leakage_at_block'])} under the detector ({name})"
    )
    if not missing(worst["leakage_undefended"]):
        text += f", {_confidence(worst['leakage_undefended'])} for the same attack undefended"
    text += f", {_confidence(worst['leakage_without_queries'])} for images that need no query"
    if not missing(worst["leakage_labelled"]):
        text += (
            f", {_confidence(worst['leakage_labelled'])} for one auxiliary image that the model labels as the target"
        )
    return text + "."


def attack_rows(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the cells of a table of attacks as text; the columns are `ATTACK_COLUMNS`."""
    return [
        (
            str(row["attack"]),
            str(row["evasion"]) or "none",
            f"{int(row['blocked'])} of {int(row['attackers'])}",
            _queries(row),
            *(_confidence(row[name]) for name in ("leakage_at_block", "leakage_undefended", "leakage_without_queries")),
        )
        for row in rows.to_dict("records")
    ]


ATTACK_COLUMNS = (
    "attack", "evasions", "attackers blocked", "mean queries to the block",
    "leakage at the end", "undefended", "without queries",
)  # fmt: skip


def _queries(row: pd.Series | Mapping[Hashable, Any]) -> str:
    return queries(float(row["mean_queries"]), at_least=bool(row["blocked"] < row["attackers"]))


def _confidence(value: float) -> str:
    return ABSENT if missing(value) else f"{value:.2f}"
