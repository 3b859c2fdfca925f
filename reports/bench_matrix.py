"""Matrices of a comparison of detectors: each attack with each row of evasions, and the cells that none stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mifsim.tables.storage import Folder
from reports.bench import bench_table
from reports.bench_text import ordered_scopes
from reports.matrix import CellResult, cell_result
from reports.wording import missing, percent, queries

NO_EVASION = "no evasion"


@dataclass(frozen=True)
class Cell:
    """Formatted result of a detector against one attack with one row of evasions.

    Attributes
    ----------
    outcome : {"stopped", "delayed", "lost"}
        See `reports.matrix.cell_result`; from the better zero-query baseline.
    blocked : str
        Attackers blocked, of all.
    queries : str
        Mean queries to block; with ``>`` if some attackers were never blocked.
    quick : bool
        Whether all attackers were blocked within a quarter of their budget.
    details : str
        Leakage at the block and undefended, the interval of the share blocked, and the budget.
    """

    outcome: CellResult
    blocked: str
    queries: str
    quick: bool
    details: str


@dataclass(frozen=True)
class Block:
    """The part of a matrix for one group of attackers.

    Attributes
    ----------
    knows : bool
        Whether these attackers know the detector.
    evasions : tuple of str
        The columns.
    rows : tuple of (str, tuple)
        Each attack with one cell for each column; None if the combination was not run.
    stopped, cells : int
        Number of cells stopped, and of all.
    """

    knows: bool
    evasions: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    stopped: int
    cells: int


@dataclass(frozen=True)
class Matrix:
    """All cells of one detector in one scope."""

    detector: str
    scope: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class NotStopped:
    """The cells of one scope and one group of attackers that no certified detector stops.

    Attributes
    ----------
    scope : str
    knows : bool
        Whether these attackers know the detector.
    attacks : tuple of (str, tuple of str)
        Each attack with the evasions of its cells.
    count, total : int
        Number of these cells, and of all.
    """

    scope: str
    knows: bool
    attacks: tuple[tuple[str, tuple[str, ...]], ...]
    count: int
    total: int


def matrices(run: Folder, detectors: Sequence[str]) -> list[Matrix]:
    """Return the matrices of the detectors, for each scope; none for a detector without cells."""
    table, found = bench_table(run, "cells"), []
    for detector in detectors:
        for scope in ordered_scopes(run):
            cells = table[(table["detector"] == detector) & (table["scope"] == scope)]
            blocks = [_block(cells[cells["knows_detector"] == knows], knows) for knows in (False, True)]
            shown = tuple(block for block in blocks if block.cells)
            if shown:
                found.append(Matrix(detector, scope, shown))
    return found


def not_stopped(run: Folder, certified: Sequence[str]) -> list[NotStopped]:
    """Return the cells that none of the certified detectors stops, for each scope and group of attackers."""
    table, found = bench_table(run, "cells"), []
    if not certified:
        return []
    table = table[table["detector"].isin(certified)]
    for scope in ordered_scopes(run):
        for knows in (False, True):
            cells = table[(table["scope"] == scope) & (table["knows_detector"] == knows)]
            if cells.empty:
                continue
            best = cells.groupby(["attack", "evasion"], observed=True, sort=False)["stopped"].any()
            attacks: dict[str, list[str]] = {}
            for attack, evasion in best.index[~best.to_numpy(dtype=bool)]:
                attacks.setdefault(str(attack), []).append(str(evasion) or NO_EVASION)
            listed = tuple((attack, tuple(evasions)) for attack, evasions in attacks.items())
            found.append(NotStopped(scope, knows, listed, sum(len(names) for _, names in listed), len(best)))
    return found


def _block(cells: pd.DataFrame, knows: bool) -> Block:
    evasions, attacks = (list(dict.fromkeys(cells[name].astype(str))) for name in ("evasion", "attack"))
    by_place = {(row["attack"], row["evasion"]): row for row in cells.to_dict("records")}
    rows = tuple((attack, tuple(_cell(by_place.get((attack, evasion))) for evasion in evasions)) for attack in attacks)
    shown = tuple(evasion or NO_EVASION for evasion in evasions)
    return Block(knows, shown, rows, int(cells["stopped"].sum()), len(cells))


def _cell(row: Mapping[Any, Any] | None) -> Cell | None:
    if row is None:
        return None
    share = row["blocked"] / row["attackers"]
    leaked = (float("nan") if missing(row[name]) else float(row[name]) for name in _LEAKAGE)
    details = [f"{label} {_confidence(row[name])}" for name, label in _LEAKAGE.items()]
    details += [f"labelled baseline {_confidence(row['leakage_labelled'])}"]
    details += [f"95% interval of the share blocked {percent(row['low'])} to {percent(row['high'])}"]
    details += [f"budget {int(row['budget_queries']):,} queries"]
    if row["stopped"] != row["stopped_labelled"]:
        details += [f"{'' if row['stopped_labelled'] else 'not '}stopped by the labelled baseline"]
    return Cell(
        outcome=cell_result(share, *leaked),
        blocked=f"{int(row['blocked'])}/{int(row['attackers'])}",
        queries=queries(row["mean_queries"], at_least=row["blocked"] < row["attackers"]),
        quick=bool(row["within_quarter"]),
        details="; ".join(details),
    )


_LEAKAGE = {
    "leakage_at_block": "evaluator confidence at the block",
    "leakage_undefended": "undefended",
    "leakage_without_queries": "without queries",
}
"""Columns of ``cells`` on which the outcome depends, in the order of the arguments of `cell_result`."""


def _confidence(value: Any) -> str:
    return "not scored" if missing(value) else f"{value:.2f}"
