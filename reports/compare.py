"""Comparison of several runs, on the terminal and as CSV."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mifsim.cache import atomic_write
from mifsim.errors import RunError
from mifsim.tables.storage import Folder
from reports import wording
from reports.comparison import undefended
from reports.styles import CALIBRATED
from reports.tables import attack_table, facts, filter_table, user_table


def compare_runs(runs: Sequence[Folder]) -> pd.DataFrame:
    """Return the results of several runs, one row per run, filter and population.

    A calibrated run is represented by its calibrated configuration. From other runs, undefended filters are left
    out if there are any others.

    Parameters
    ----------
    runs : sequence of Path or RemotePath
        Different run folders.

    Returns
    -------
    DataFrame
        Columns ``run``, ``study``, ``seed``, ``status``, ``filter``, ``kind``, ``config`` (JSON), ``role``,
        ``population``, ``sessions``, ``blocked``; the false-positive rate in [0, 1] with its exact 95% interval
        (``false_positive_rate``, ``low``, ``high``; null for attacks); queries to block and leakage scores, named
        as in `reports.tables.attack_table` (null for users); the versions ``mifsim``, ``ray``, ``tensorflow``,
        ``numpy``.

    Raises
    ------
    RunError
        If a folder is not a run folder or contains no sessions, or if a folder is given twice.
    """
    names = _names(runs)
    return pd.concat([_rows(run, names[place]) for place, run in enumerate(runs)], ignore_index=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, atomically.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            table.to_csv(temporary, index=False)
    except OSError as error:
        raise RunError(f"--out {path}: cannot be written: {error.strerror}") from None


def print_comparison(table: pd.DataFrame, console: Console | None = None) -> None:
    """Print the table of `compare_runs`: one column per run and filter, one line per quantity."""
    out = console or Console(width=None if sys.stdout.isatty() else 160)
    shown = Table(title="Comparison of runs", title_justify="left")
    shown.add_column("")
    columns = [(run, name) for run, name in table[["run", "filter"]].drop_duplicates().itertuples(index=False)]
    for run, name in columns:
        shown.add_column(Text(f"{run}\n{name}"), justify="right")
    groups = [table[(table["run"] == run) & (table["filter"] == name)] for run, name in columns]

    def line(title: str, cells: Sequence[str]) -> None:
        shown.add_row(Text(title), *(Text(cell) for cell in cells))

    line("kind", [str(group["kind"].iloc[0]) for group in groups])
    parameters = [wording.parameters(str(group["config"].iloc[0])) for group in groups]
    for key in dict.fromkeys(key for found in parameters for key in found):
        line(f"  {key}", [wording.value(found[key]) if key in found else wording.ABSENT for found in parameters])
    shown.add_section()
    line("worst workload", [_worst(group, "population") for group in groups])
    line("  false-positive rate", [_worst(group, "rate") for group in groups])
    line("  95% interval", [_worst(group, "interval") for group in groups])
    for attack in table.loc[table["role"] == "attacker", "population"].unique():
        shown.add_section()
        of_attack = [group[group["population"] == attack] for group in groups]
        line(str(attack), [""] * len(groups))
        for title, write in _ATTACK_LINES:
            line(f"  {title}", [write(group.iloc[0]) if len(group) else wording.ABSENT for group in of_attack])
    shown.add_section()
    for key in ("mifsim", "ray", "tensorflow", "numpy"):
        line(key, [str(group[key].iloc[0]) for group in groups])
    out.print(shown)


def _share(row: pd.Series) -> str:
    return f"{int(row['blocked'])} of {int(row['sessions'])}"


def _mean(row: pd.Series) -> str:
    return wording.queries(row["restricted_mean_queries"], at_least=row["blocked"] < row["sessions"])


def _reconstruction(key: str, digits: int) -> Any:
    def write(row: pd.Series) -> str:
        return wording.ABSENT if key not in row or wording.missing(row[key]) else f"{row[key]:.{digits}f}"

    return write


_ATTACK_LINES = (
    ("blocked", _share),
    ("median queries to block", lambda row: wording.queries(row["median_queries_to_block"])),
    ("mean queries to block", _mean),
    ("victim confidence", _reconstruction("victim_confidence", 2)),
    ("evaluator confidence", _reconstruction("evaluator_confidence", 2)),
    ("evaluator hit rate", _reconstruction("evaluator_hit_share", 2)),
    ("feature distance", _reconstruction("feature_distance", 1)),
)


def _worst(group: pd.DataFrame, what: str) -> str:
    users = group[group["role"] == "user"].sort_values("false_positive_rate", ascending=False, kind="stable")
    if users.empty:
        return wording.ABSENT
    row = users.iloc[0]
    if what == "population":
        return str(row["population"])
    if what == "rate":
        return wording.percent(row["false_positive_rate"])
    return f"{wording.percent(row['low'])} to {wording.percent(row['high'])}"


def _names(runs: Sequence[Folder]) -> list[str]:
    """Return unique names of the runs: the folder names, or the full paths if two folder names are equal."""
    resolved = [run.resolve() for run in runs]
    if len(set(resolved)) < len(resolved):
        raise RunError(f"compare: {', '.join(map(str, runs))}: a run is given twice; expected different run folders")
    names = [run.name for run in resolved]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _rows(run: Folder, name: str) -> pd.DataFrame:
    known = facts(run)
    attacks = attack_table(run).rename(columns={"attack": "population"}).assign(role="attacker")
    users = user_table(run).rename(columns={"workload": "population"}).assign(role="user")
    found = pd.concat([table for table in (attacks, users) if len(table)], ignore_index=True)
    found["filter"] = found["filter"].astype(str)
    # The calibrated configuration is the result of a calibration; its other filters are usually in every run.
    if CALIBRATED in set(found["filter"]):
        found = found[found["filter"] == CALIBRATED]
    else:
        found = found[~found["filter"].isin(undefended(run))] if len(set(found["filter"])) > 1 else found
    found = found.merge(filter_table(run), left_on="filter", right_index=True, how="left")
    versions = {key: known.get("versions", {}).get(key, "") for key in ("mifsim", "ray", "tensorflow", "numpy")}
    head = {"run": name, "study": known.get("study"), "seed": known.get("seed"), "status": known.get("status")}
    found = found.assign(**head, **versions)
    first = [*head, "filter", "kind", "config", "role", "population", "sessions", "blocked"]
    rates = ["false_positive_rate", "low", "high"]
    dropped = {*first, *rates, *versions, "worst"}
    rest = [str(column) for column in found.columns if column not in dropped]
    found = found.reindex(columns=[*first, *rates, *rest, *versions])
    return found.astype({name: "Int64" for name in ("sessions", "blocked", "budget_queries") if name in found})
