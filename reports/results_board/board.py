"""The folder of a results board: its table, to which runs are added and from which they are removed, and its pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mifsim.cache import atomic_write
from mifsim.errors import RunError, UserError
from mifsim.tables.board_schema import BOARD_SCHEMAS
from mifsim.tables.records import TableWriter, read_checked
from reports.results_board.page import render_page, render_readme
from reports.results_board.rows import COLUMNS

TABLE = "board.parquet"


def read_board(board: Path) -> pd.DataFrame:
    """Return the table of a board; empty if the folder has none.

    Raises
    ------
    RunError
        If the table is damaged, or has another schema version.
    """
    path = board / TABLE
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    found = read_checked(path, BOARD_SCHEMAS["board"])
    frame: pd.DataFrame = found.to_pandas()
    categories = frame.select_dtypes("category").columns
    return frame.astype(dict.fromkeys(categories, object))


def is_on_board(board: Path, digest: str) -> bool:
    """Return whether a board has the run with this digest."""
    return bool(read_board(board)["run_digest"].eq(digest).any())


def check_place(board: Path, facts: Mapping[str, Any], *, replace: bool) -> None:
    """Raise a `UserError` if a board has another run of a study of this name and seed, and `replace` is false.

    Parameters
    ----------
    board : Path
    facts : mapping
        Content of the ``run.json`` of the run that is to be added.
    replace : bool

    Raises
    ------
    UserError
        Also if the board's path is a file.
    """
    if board.exists() and not board.is_dir():
        raise UserError(f"--board {board}: is a file (accepted: a folder, which is created if it does not exist)")
    others = _same_study(read_board(board), facts.get("study"), facts.get("seed"))
    if replace or others.empty:
        return
    other = others.iloc[0]
    same = other["study_fingerprint"] == facts.get("study_fingerprint")
    raise UserError(
        f"{board / TABLE}: study = {other['study']!r}, seed = {other['seed']}: the run {other['run_id']} of "
        f"{'the same study' if same else 'a study with other values'} is on the board (accepted: --replace, or a study "
        "with another name or seed)"
    )


def add_rows(board: Path, rows: pd.DataFrame) -> None:
    """Add the rows of a run in the place of those of the same study and seed, and write the pages."""
    table, first = read_board(board), rows.iloc[0]
    kept = table.drop(_same_study(table, first["study"], first["seed"]).index)
    together = rows if kept.empty else pd.concat([kept.astype(object), rows.astype(object)], ignore_index=True)
    write_board(board, together)


def remove_run(board: Path, run_id: str) -> int:
    """Remove a run from a board, and write the pages; return the number of removed rows.

    Raises
    ------
    RunError
        If the board has no such run.
    """
    table = read_board(board)
    chosen = table["run_id"].eq(run_id)
    if not chosen.any():
        names = ", ".join(dict.fromkeys(table["run_id"])) or "none: the board is empty"
        raise RunError(f"{board / TABLE}: run_id = {run_id!r}: not on the board (accepted: {names})")
    write_board(board, table[~chosen])
    return int(chosen.sum())


def write_board(board: Path, table: pd.DataFrame) -> None:
    """Write the table and the pages of a board, ordered by data set, study and run."""
    order = ["data_set", "study", "seed", "run_id"]
    ordered = table.sort_values(order, kind="stable", ignore_index=True)
    board.mkdir(parents=True, exist_ok=True)
    plain = ordered.astype(object).where(ordered.notna(), None)
    with TableWriter(board / TABLE, "board", {}, BOARD_SCHEMAS["board"]) as writer:
        if len(plain):
            writer.write({name: plain[name].tolist() for name in writer.schema.names})
    # An absolute path says something about this machine, and nothing to the reader.
    shown = board.name if board.is_absolute() else board.as_posix()
    for name, text in (("index.html", render_page(ordered)), ("README.md", render_readme(ordered, shown))):
        with atomic_write(board / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def runs_on(board: Path) -> pd.DataFrame:
    """Return one row for each run on a board, with its number of rows."""
    table = read_board(board)
    if table.empty:
        return table.assign(rows=0)
    counted = table.groupby("run_id", sort=False).size()
    runs: pd.DataFrame = table.drop_duplicates("run_id").set_index("run_id").assign(rows=counted).reset_index()
    return runs


def _same_study(table: pd.DataFrame, study: Any, seed: Any) -> pd.DataFrame:
    found: pd.DataFrame = table[table["study"].eq(study) & table["seed"].eq(seed)]
    return found
