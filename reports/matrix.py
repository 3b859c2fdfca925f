"""The matrix: what every filter does to every attack with every evasion, and to every workload."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from mifsim.errors import RunError
from mifsim.tables.records import TableWriter
from mifsim.tables.storage import Folder
from reports.comparison import in_order, undefended
from reports.tables import attack_table, baseline_table, facts, user_table
from reports.wording import missing, percent, queries

CellResult = Literal["stopped", "delayed", "lost"]

LEAKS = 0.05
"""An attack leaks where the evaluator's confidence, undefended, is above the best floor by so much."""
TOO_MUCH = 0.5
"""Of what an attack leaks undefended: a filter that lets so much of it out has lost, whenever it blocked."""


def cell_result(blocked_share: float, leaked: float, undefended_: float, baseline: float) -> CellResult:
    """Say what a filter made of an attack.

    Lost: fewer than half of the attackers were blocked, or what they held at the end was worth at least half of what
    they hold undefended (counted from the floor, where the attack leaks at all). Stopped: all were blocked, and held
    less than that. Delayed: the rest.

    Parameters
    ----------
    blocked_share : float
        In [0, 1].
    leaked, undefended_, floor : float
        The evaluator's mean confidence: at the end, at the end without a filter, without a query. NaN: not scored.

    Examples
    --------
    >>> cell_result(1.0, 0.1, 0.9, 0.1), cell_result(0.8, 0.1, 0.9, 0.1), cell_result(1.0, 0.6, 0.9, 0.1)
    ('stopped', 'delayed', 'lost')
    >>> cell_result(1.0, 0.12, 0.12, 0.1)  # it leaks next to nothing even undefended
    'stopped'
    """
    leaks = not np.isnan([leaked, undefended_, baseline]).any() and undefended_ - baseline >= LEAKS
    if blocked_share < 0.5 or (leaks and leaked - baseline >= TOO_MUCH * (undefended_ - baseline)):
        return "lost"
    return "stopped" if blocked_share == 1 else "delayed"


def attack_matrix(run: Folder) -> pd.DataFrame:
    """Return one row an attack, row of evasions and filter; the columns are those of ``matrix_attacks``."""
    table = attack_table(run)
    if table.empty:
        return pd.DataFrame(columns=["population", "filter"])
    evasion_rows = _evasions(run)
    baselines = baseline_table(run)
    baseline = np.nan if baselines is None or baselines.empty else float(baselines["evaluator_confidence"].max())
    bare = set(undefended(run))
    leaked = table.get("evaluator_confidence", pd.Series(np.nan, table.index))
    ceiling = {
        str(name): float(value)
        for name, filter_, value in zip(table["attack"], table["filter"], leaked, strict=True)
        if filter_ in bare
    }
    rows = []
    for row, value in zip(table.to_dict("records"), leaked, strict=True):
        name = str(row["attack"])
        attack, evasions = evasion_rows.get(name, (name, ""))
        share = row["blocked"] / row["sessions"]
        top = ceiling.get(name, np.nan)
        rows.append(
            {
                "attack": attack,
                "evasions": evasions,
                "population": name,
                "filter": str(row["filter"]),
                "attackers": row["sessions"],
                "blocked_share": share,
                "queries_to_block": row["restricted_mean_queries"],
                "budget_queries": row["budget_queries"],
                "sessions_used": row["sessions_used"],
                "clients_used": row["clients_used"],
                "queries_spent": row["queries_spent"],
                "leakage_at_block": value,
                "leakage_undefended": top,
                "leakage_without_queries": baseline,
                "outcome": "undefended" if row["filter"] in bare else cell_result(share, value, top, baseline),
            }
        )
    found = pd.DataFrame(rows)
    return found[found["outcome"] != "undefended"].reset_index(drop=True)


def user_matrix(run: Folder) -> pd.DataFrame:
    """Return one row a workload and filter; the columns are those of ``matrix_users``."""
    table = user_table(run)
    if table.empty:
        return table
    return table[~table["filter"].isin(undefended(run))][
        ["workload", "filter", "sessions", "blocked", "false_positive_rate", "low", "high"]
    ].reset_index(drop=True)


def write_matrix(run: Folder) -> None:
    """Write ``matrix_attacks.parquet`` and ``matrix_users.parquet`` into the run folder."""
    known = facts(run)
    metadata = {
        "run_id": str(known.get("run_id", "")),
        "study": str(known.get("study", "")),
        "mifsim_version": str(known.get("versions", {}).get("mifsim", "")),
    }
    for name, table in (("matrix_attacks", attack_matrix(run)), ("matrix_users", user_matrix(run))):
        if table.empty:
            continue
        plain = table.astype(object).where(table.notna(), None)
        with TableWriter(run / f"{name}.parquet", name, metadata) as writer:
            writer.write({column: plain[column].tolist() for column in writer.schema.names})


@dataclass(frozen=True)
class MatrixCell:
    """What one filter made of one attack.

    Attributes
    ----------
    outcome : {"stopped", "delayed", "lost"}
    blocked, numbers, leak : str
        Share blocked; queries and sessions; leakage at the end beside that undefended, empty where not scored.
    """

    outcome: str
    blocked: str
    numbers: str
    leak: str


@dataclass(frozen=True)
class MatrixPage:
    """The attack matrix as the page shows it.

    Attributes
    ----------
    filters : tuple of str
        The columns.
    groups : tuple of (attack, rows)
        A row is (evasions, cells).
    tally : tuple of (filter, {outcome: how many})
    """

    filters: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[str, tuple[MatrixCell, ...]], ...]], ...]
    tally: tuple[tuple[str, dict[str, int]], ...]


def matrix_page(run: Folder) -> MatrixPage | None:
    """Return the matrix for the page; None where no attack of the run has an evasion around it."""
    if not any(evasions for _, evasions in _evasions(run).values()):
        return None
    table = attack_matrix(run)
    if table.empty:
        return None
    filters = tuple(in_order(list(dict.fromkeys(table["filter"])), ()))
    groups = []
    for attack in table["attack"].unique():
        of_attack = table[table["attack"] == attack]
        rows = []
        for evasions in of_attack["evasions"].unique():
            cells = of_attack[of_attack["evasions"] == evasions].drop_duplicates("filter").set_index("filter")
            rows.append((str(evasions) or "as it is", tuple(_cell(cells.loc[name]) for name in filters)))
        groups.append((str(attack), tuple(rows)))
    tally = tuple(
        (name, {kind: int((table.loc[table["filter"] == name, "outcome"] == kind).sum()) for kind in _OUTCOMES})
        for name in filters
    )
    return MatrixPage(filters, tuple(groups), tally)


_OUTCOMES = ("stopped", "delayed", "lost")


def _cell(row: pd.Series) -> MatrixCell:
    spared = row["blocked_share"] < 1
    numbers = f"{queries(row['queries_to_block'], at_least=spared)} queries"
    if row["sessions_used"] > 1:
        numbers += f" in {row['sessions_used']:.1f} sessions"
    if row["clients_used"] > 1:
        numbers += f" of {row['clients_used']:.1f} clients"
    leak = ""
    if not missing(float(row["leakage_at_block"])):
        leak = f"held {row['leakage_at_block']:.2f}"
        if not missing(float(row["leakage_undefended"])):
            leak += f" of {row['leakage_undefended']:.2f}"
    return MatrixCell(str(row["outcome"]), percent(float(row["blocked_share"])), numbers, leak)


def _evasions(run: Folder) -> dict[str, tuple[str, str]]:
    """Return for each attack population its kind of attack and its evasions, as the study has them."""
    path = run / "study.toml"
    try:
        study: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    found = {}
    for attack in study.get("attacks", []):
        names = [_with_arguments(one) for one in attack.get("evasions", [])]
        found[str(attack["name"])] = _title(attack, names), " + ".join(names)
    return found


def _title(attack: dict[str, Any], names: list[str]) -> str:
    """Return the population's name without those of its evasions."""
    name = str(attack["name"])
    for one in reversed(attack.get("evasions", [])):
        name = name.removesuffix(f"+{next(iter(one))}")
    return name


def _with_arguments(one: dict[str, Any]) -> str:
    ((name, arguments),) = one.items()
    shown = ", ".join(f"{key} {value}" for key, value in arguments.items())
    return f"{name} ({shown})" if shown else name
