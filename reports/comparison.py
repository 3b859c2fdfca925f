"""Filters beside each other, attack by attack: where the calibrated one is ahead, and where it is behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from mifsim.tables.storage import Folder
from reports.styles import CALIBRATED
from reports.tables import attack_table, baseline_table, filter_table, user_table
from reports.wording import ABSENT, count, missing, percent, queries

Mark = Literal["ahead", "behind", "even", ""]


@dataclass(frozen=True)
class Cell:
    """One number of the table.

    Attributes
    ----------
    text : str
        The number as it is shown.
    mark : {"ahead", "behind", "even", ""}
        Against the best of the other filters; empty where nothing is compared.
    note : str
        What it was compared with.
    """

    text: str
    mark: Mark = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One filter's numbers against one attack, or one floor."""

    name: str
    cells: tuple[Cell, ...]
    kind: Literal["chosen", "filter", "undefended", "baseline"]


@dataclass(frozen=True)
class Group:
    """All filters against one attack, or on one workload."""

    name: str
    rows: tuple[Row, ...]
    caveat: str = ""


@dataclass(frozen=True)
class _Column:
    title: str
    key: str
    smaller_is_better: bool
    help: str


_ATTACK_COLUMNS = (
    _Column("blocked", "share", False, "sessions of the attack that the filter ended"),
    _Column("queries to block, median", "median_queries_to_block", True, "Kaplan-Meier; a dash: not half are blocked"),
    _Column(
        "mean",
        "restricted_mean_queries",
        True,
        "restricted mean: a session never blocked counts as its budget, and the true mean is above it",
    ),
    _Column("victim's confidence", "victim_confidence", True, "in the target, at the last answered query"),
    _Column("evaluator's confidence", "evaluator_confidence", True, "the same by a model of another architecture"),
    _Column("evaluator's hits", "evaluator_hit_share", True, "guesses that this model takes for the target"),
    _Column("feature distance", "feature_distance", False, "to the nearest private image; greater: less was learned"),
)
_RATE = _Column("blocked", "false_positive_rate", True, "")


@dataclass(frozen=True)
class Comparison:
    """A table of groups and rows.

    Attributes
    ----------
    columns : tuple of (title, help)
    groups : tuple of Group
    tally : dict
        How many cells have each mark.
    """

    columns: tuple[tuple[str, str], ...]
    groups: tuple[Group, ...]

    @property
    def tally(self) -> dict[Mark, int]:
        """How many cells are ahead, behind and even."""
        marks = [cell.mark for group in self.groups for row in group.rows for cell in row.cells]
        return {mark: marks.count(mark) for mark in ("ahead", "behind", "even")}


def undefended(run: Folder) -> list[str]:
    """Return the names of the filters of the kind ``none``."""
    table = filter_table(run)
    return [str(name) for name in table.index[table["kind"] == "none"]]


def in_order(names: Sequence[str], unfiltered: Sequence[str]) -> list[str]:
    """Return filters as they are shown: the calibrated one first, the study's order, no filter last."""
    return sorted(names, key=lambda name: (name in unfiltered, name != CALIBRATED))


def compare_attacks(run: Folder) -> Comparison:
    """Return attack by filter: who was blocked, when, and the attacker's reconstruction; the baselines last."""
    frame = attack_table(run)
    if frame.empty:
        return Comparison((), ())
    frame = frame.assign(share=frame["blocked"] / frame["sessions"])
    columns = [column for column in _ATTACK_COLUMNS if column.key in frame]
    baselines = baseline_table(run)
    groups = []
    for attack in frame["attack"].unique():
        rows = frame[frame["attack"] == attack]
        groups.append(Group(str(attack), _rows(rows, columns, undefended(run)), _worth_little(rows, run, baselines)))
    if baselines is not None and len(baselines):
        groups.append(Group("without a query", tuple(_baseline(row, columns) for _, row in baselines.iterrows())))
    return Comparison(tuple((column.title, column.help) for column in columns), tuple(groups))


def compare_users(run: Folder) -> Comparison:
    """Return workload by filter: honest sessions blocked, with an exact interval; no filter is left out."""
    frame = user_table(run)
    frame = frame[~frame["filter"].isin(undefended(run))] if len(frame) else frame
    if frame.empty:
        return Comparison((), ())
    filters = in_order([str(name) for name in frame["filter"].unique()], ())
    rows = []
    for workload in frame["workload"].unique():
        by_name = {str(row["filter"]): row for _, row in frame[frame["workload"] == workload].iterrows()}
        rivals = {name: row for name, row in by_name.items() if name != CALIBRATED}
        cells = []
        for name in filters:
            text = f"{_text('false_positive_rate', by_name[name])} ({_text('interval', by_name[name])})"
            mark, note = _against(_RATE, by_name[name], rivals) if name == CALIBRATED else ("", "")
            cells.append(Cell(text, mark, note))
        counted = count(int(by_name[filters[0]]["sessions"]), "session")
        rows.append(Row(f"{workload} ({counted})", tuple(cells), "filter"))
    columns = tuple((name, "share blocked, and its exact 95% interval") for name in filters)
    return Comparison(columns, (Group("", tuple(rows)),))


def _rows(frame: pd.DataFrame, columns: Sequence[_Column], unfiltered: Sequence[str]) -> tuple[Row, ...]:
    by_name = {str(row["filter"]): row for _, row in frame.iterrows()}
    rivals = {name: row for name, row in by_name.items() if name != CALIBRATED and name not in unfiltered}
    rows = []
    for name in in_order(list(by_name), unfiltered):
        cells = []
        for column in columns:
            text = _text(column.key, by_name[name])
            mark, note = _against(column, by_name[name], rivals) if name == CALIBRATED else ("", "")
            cells.append(Cell(text, mark, note))
        kind: Any = "chosen" if name == CALIBRATED else "undefended" if name in unfiltered else "filter"
        rows.append(Row(name, tuple(cells), kind))
    return tuple(rows)


def _against(column: _Column, calibrated: pd.Series, rivals: dict[str, pd.Series]) -> tuple[Mark, str]:
    """Compare with the best of the rivals, as precisely as the numbers are shown."""
    if column.key not in calibrated or not rivals:
        return "", ""
    never = float("inf")  # a median that was not reached is later than any

    def value(row: pd.Series) -> float:
        found = float(row[column.key])
        return (never if column.key == "median_queries_to_block" else float("nan")) if missing(found) else found

    sign = 1 if column.smaller_is_better else -1
    known = {name: value(row) for name, row in rivals.items() if not missing(value(row))}
    if not known or missing(value(calibrated)):
        return "", ""
    best = min(known, key=lambda name: sign * known[name])
    note = f"best of the others: {best}, {_text(column.key, rivals[best])}"
    if _text(column.key, calibrated) == _text(column.key, rivals[best]):
        return "even", note
    return ("ahead" if sign * value(calibrated) < sign * known[best] else "behind"), note


def _text(key: str, row: pd.Series) -> str:
    if key == "interval":
        return f"{percent(row['low'])} to {percent(row['high'])}"
    if key == "share":
        return f"{row['blocked']} of {row['sessions']} ({row[key]:.0%})"
    if key == "false_positive_rate":
        return percent(row[key])
    if missing(row[key]):
        return ABSENT
    if key == "restricted_mean_queries":
        return queries(row[key], at_least=row["blocked"] < row["sessions"])
    if key == "median_queries_to_block":
        return queries(row[key])
    if key in ("evaluator_hit_share", "evaluator_hit"):
        return f"{row[key]:.0%}"
    return f"{row[key]:.1f}" if key == "feature_distance" else f"{row[key]:.2f}"


def _baseline(row: pd.Series, columns: Sequence[_Column]) -> Row:
    words = {"prior": "an auxiliary image (prior)", "random": "a random image"}
    named = {"evaluator_hit_share": "evaluator_hit"}
    cells = [named.get(column.key, column.key) for column in columns]
    texts = tuple(Cell(_text(key, row) if key in row else "") for key in cells)
    return Row(words.get(str(row["kind"]), str(row["kind"])), texts, "baseline")


def _worth_little(rows: pd.DataFrame, run: Folder, baselines: pd.DataFrame | None) -> str:
    """Say so where the attack learns nothing even undefended: its leakage then hardly tells filters apart."""
    ceiling = rows[rows["filter"].isin(undefended(run))]
    if baselines is None or not len(baselines) or ceiling.empty or "evaluator_confidence" not in ceiling:
        return ""
    reached, baseline = float(ceiling["evaluator_confidence"].max()), float(baselines["evaluator_confidence"].max())
    if missing(reached) or round(reached, 2) > round(baseline, 2):  # as they are shown
        return ""
    return (
        f"Even undefended, the evaluator's confidence ({reached:.2f}) is not above what needs no query "
        f"({baseline:.2f}): by this measure the attack learns nothing, and its leakage hardly tells the filters apart."
    )
