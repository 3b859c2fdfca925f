"""Comparison of the calibrated filter with the other filters, for each attack and workload."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from mifsim.tables.storage import Folder
from reports.baselines import LABELLED, BaselineConfidence, baseline_table, labelled_gap
from reports.styles import CALIBRATED
from reports.tables import attack_table, filter_table, user_table
from reports.wording import ABSENT, count, missing, percent, queries

Mark = Literal["ahead", "behind", "even", ""]


@dataclass(frozen=True)
class Cell:
    """A formatted number of the comparison table.

    Attributes
    ----------
    text : str
        The formatted number.
    mark : {"ahead", "behind", "even", ""}
        Result of the comparison with the best of the other filters; empty if the cell is not compared.
    note : str
        Name and value of that filter; empty if the cell is not compared.
    """

    text: str
    mark: Mark = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A row of the comparison table: the numbers of one filter, workload or baseline."""

    name: str
    cells: tuple[Cell, ...]
    kind: Literal["chosen", "filter", "undefended", "baseline"]
    """The CSS class of the row."""


@dataclass(frozen=True)
class Group:
    """Rows under a common heading: all filters for one attack, or all workloads.

    Attributes
    ----------
    name : str
        The heading; may be empty.
    rows : tuple of Row
    caveat : str
        A limitation of the numbers, shown beside the heading; may be empty.
    """

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
    _Column("attackers blocked", "share", False, "attackers of this attack that the filter blocked"),
    _Column(
        "median queries to block",
        "median_queries_to_block",
        True,
        "Kaplan-Meier estimate; a dash if fewer than half of the attackers were blocked",
    ),
    _Column(
        "mean queries to block",
        "restricted_mean_queries",
        True,
        "restricted mean: an attacker that was never blocked counts as its query budget, so the true mean is larger",
    ),
    _Column(
        "victim confidence",
        "victim_confidence",
        True,
        "mean confidence of the attacked model in the target class, at the last answered query",
    ),
    _Column(
        "evaluator confidence",
        "evaluator_confidence",
        True,
        "mean confidence of a second model of a different architecture in the target class of the reconstruction",
    ),
    _Column(
        "evaluator hits",
        "evaluator_hit_share",
        True,
        "reconstructions that the second model classifies as the target class",
    ),
    _Column(
        "feature distance",
        "feature_distance",
        False,
        "mean distance to the nearest private image in the second model's feature space; larger means less leakage",
    ),
)
_RATE = _Column("blocked", "false_positive_rate", True, "")


@dataclass(frozen=True)
class Comparison:
    """The comparison table.

    Attributes
    ----------
    columns : tuple of (str, str)
        Title and explanation of each column.
    groups : tuple of Group
    """

    columns: tuple[tuple[str, str], ...]
    groups: tuple[Group, ...]

    @property
    def tally(self) -> dict[Mark, int]:
        """Number of cells with each mark."""
        marks = [cell.mark for group in self.groups for row in group.rows for cell in row.cells]
        return {mark: marks.count(mark) for mark in ("ahead", "behind", "even")}


def undefended(run: Folder) -> list[str]:
    """Return the names of the filters of the kind ``none``."""
    table = filter_table(run)
    return [str(name) for name in table.index[table["kind"] == "none"]]


def in_order(names: Sequence[str], unfiltered: Sequence[str]) -> list[str]:
    """Return filter names in display order: calibrated first, then in study order, undefended last."""
    return sorted(names, key=lambda name: (name in unfiltered, name != CALIBRATED))


def compare_attacks(run: Folder) -> Comparison:
    """Return blocked attackers, queries to block and leakage by attack and filter, then the baselines."""
    frame = attack_table(run)
    if frame.empty:
        return Comparison((), ())
    frame = frame.assign(share=frame["blocked"] / frame["sessions"])
    columns = [column for column in _ATTACK_COLUMNS if column.key in frame]
    baselines = baseline_table(run)
    groups = []
    for attack in frame["attack"].unique():
        rows = frame[frame["attack"] == attack]
        groups.append(Group(str(attack), _rows(rows, columns, undefended(run)), _leakage_caveat(rows, run, baselines)))
    if baselines is not None and len(baselines):
        rows = [_baseline(row, columns) for _, row in baselines.iterrows()]
        without_queries = baselines["kind"] != LABELLED
        groups.append(Group("zero-query baselines", tuple(itertools.compress(rows, without_queries))))
        if not without_queries.all():
            labelled = tuple(itertools.compress(rows, ~without_queries))
            groups.append(Group("baseline that needs only labels", labelled, labelled_gap(run)))
    return Comparison(tuple((column.title, column.help) for column in columns), tuple(groups))


def compare_users(run: Folder) -> Comparison:
    """Return false-positive rates with exact 95% intervals by workload and filter, without undefended filters."""
    frame = user_table(run)
    frame = frame[~frame["filter"].isin(undefended(run))] if len(frame) else frame
    if frame.empty:
        return Comparison((), ())
    filters = in_order([str(name) for name in frame["filter"].unique()], ())
    rows = []
    for workload in frame["workload"].unique():
        by_name = {str(row["filter"]): row for _, row in frame[frame["workload"] == workload].iterrows()}
        others = {name: row for name, row in by_name.items() if name != CALIBRATED}
        cells = []
        for name in filters:
            text = f"{_text('false_positive_rate', by_name[name])} ({_text('interval', by_name[name])})"
            mark, note = _compared(_RATE, by_name[name], others) if name == CALIBRATED else ("", "")
            cells.append(Cell(text, mark, note))
        counted = count(int(by_name[filters[0]]["sessions"]), "session")
        rows.append(Row(f"{workload} ({counted})", tuple(cells), "filter"))
    columns = tuple((name, "share of sessions blocked, with its exact 95% interval") for name in filters)
    return Comparison(columns, (Group("", tuple(rows)),))


def _rows(frame: pd.DataFrame, columns: Sequence[_Column], unfiltered: Sequence[str]) -> tuple[Row, ...]:
    by_name = {str(row["filter"]): row for _, row in frame.iterrows()}
    others = {name: row for name, row in by_name.items() if name != CALIBRATED and name not in unfiltered}
    rows = []
    for name in in_order(list(by_name), unfiltered):
        cells = []
        for column in columns:
            text = _text(column.key, by_name[name])
            mark, note = _compared(column, by_name[name], others) if name == CALIBRATED else ("", "")
            cells.append(Cell(text, mark, note))
        kind: Any = "chosen" if name == CALIBRATED else "undefended" if name in unfiltered else "filter"
        rows.append(Row(name, tuple(cells), kind))
    return tuple(rows)


def _compared(column: _Column, calibrated: pd.Series, others: dict[str, pd.Series]) -> tuple[Mark, str]:
    """Compare the calibrated filter with the best other filter, at the precision at which numbers are displayed."""
    if column.key not in calibrated or not others:
        return "", ""
    never = float("inf")  # a median that was not reached is larger than every reached one

    def value(row: pd.Series) -> float:
        found = float(row[column.key])
        return (never if column.key == "median_queries_to_block" else float("nan")) if missing(found) else found

    sign = 1 if column.smaller_is_better else -1
    known = {name: value(row) for name, row in others.items() if not missing(value(row))}
    if not known or missing(value(calibrated)):
        return "", ""
    best = min(known, key=lambda name: sign * known[name])
    note = f"best other filter: {best}, {_text(column.key, others[best])}"
    if _text(column.key, calibrated) == _text(column.key, others[best]):
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
    titles = {
        "prior": "auxiliary images (prior)",
        "random": "random images",
        LABELLED: "one labelled auxiliary image",
    }
    baseline_keys = {"evaluator_hit_share": "evaluator_hit"}
    keys = [baseline_keys.get(column.key, column.key) for column in columns]
    cells = tuple(Cell(_text(key, row) if key in row else "") for key in keys)
    return Row(titles.get(str(row["kind"]), str(row["kind"])), cells, "baseline")


def _leakage_caveat(rows: pd.DataFrame, run: Folder, baselines: pd.DataFrame | None) -> str:
    """Return a warning if the undefended attack does not exceed the baselines; an empty string otherwise."""
    bare = rows[rows["filter"].isin(undefended(run))]
    if baselines is None or not len(baselines) or bare.empty or "evaluator_confidence" not in bare:
        return ""
    reached, baseline = float(bare["evaluator_confidence"].max()), BaselineConfidence.of(baselines)
    # Compared as displayed; false for NaN.
    if round(reached, 2) <= round(baseline.zero_query, 2):
        return (
            f"Even undefended, this attack does not exceed the zero-query baselines in evaluator confidence "
            f"({reached:.2f}, baseline {baseline.zero_query:.2f}). Its leakage scores therefore do not distinguish the "
            "filters."
        )
    if round(reached, 2) <= round(baseline.labelled, 2):
        return (
            f"Even undefended, this attack does not exceed one labelled auxiliary image in evaluator confidence "
            f"({reached:.2f}, baseline {baseline.labelled:.2f})."
        )
    return ""
