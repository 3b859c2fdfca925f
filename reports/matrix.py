"""Attack matrix: results of every filter against every attack with every evasion, and on every workload."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from mifsim.errors import RunError
from mifsim.statistics import clopper_pearson
from mifsim.tables.records import TableWriter
from mifsim.tables.storage import Folder
from reports.baselines import BaselineConfidence, baseline_table
from reports.comparison import in_order, undefended
from reports.tables import attack_table, facts, user_table
from reports.wording import missing, percent, queries

CellResult = Literal["stopped", "delayed", "lost"]

MIN_LEAKAGE = 0.05
"""Minimum excess of the undefended evaluator confidence over the baseline for an attack to leak."""
LOST_SHARE = 0.5
"""Share of the undefended leakage at which a filter has lost, even if it blocked every attacker."""


def cell_result(blocked_share: float, leaked: float, undefended_: float, baseline: float) -> CellResult:
    """Classify the result of a filter against an attack as stopped, delayed or lost.

    Leakage is the evaluator's confidence in excess of a baseline, the confidence in images that the attacker obtains
    without model inversion.

    * Lost: fewer than half of the attackers were blocked, or the leakage is at least `LOST_SHARE` of the undefended
      leakage. The second condition applies only if the undefended leakage is at least `MIN_LEAKAGE`.
    * Stopped: not lost, and all attackers were blocked.
    * Delayed: otherwise.

    Parameters
    ----------
    blocked_share : float
        Share of the attackers that were blocked, in [0, 1].
    leaked : float
        The evaluator's mean confidence in the final reconstructions under the filter, in [0, 1]; NaN if not scored.
    undefended_ : float
        The same without a filter.
    baseline : float
        The same for a baseline; see `reports.baselines`.

    Examples
    --------
    >>> cell_result(1.0, 0.1, 0.9, 0.1), cell_result(0.8, 0.1, 0.9, 0.1), cell_result(1.0, 0.6, 0.9, 0.1)
    ('stopped', 'delayed', 'lost')
    >>> cell_result(1.0, 0.12, 0.12, 0.1)  # the attack leaks almost nothing even undefended
    'stopped'
    """
    leaks = not np.isnan([leaked, undefended_, baseline]).any() and undefended_ - baseline >= MIN_LEAKAGE
    if blocked_share < 0.5 or (leaks and leaked - baseline >= LOST_SHARE * (undefended_ - baseline)):
        return "lost"
    return "stopped" if blocked_share == 1 else "delayed"


def attack_matrix(run: Folder) -> pd.DataFrame:
    """Return one row per attack, combination of evasions and filter, with the columns of ``matrix_attacks``.

    Undefended filters have no rows: they are the reference in the column ``leakage_undefended``. The column ``outcome``
    measures leakage from the better zero-query baseline, ``outcome_labelled`` from the best of all three baselines; it
    is None for a run without the labelled baseline.
    """
    table = attack_table(run)
    if table.empty:
        return pd.DataFrame(columns=["population", "filter"])
    evasion_rows = _evasions(run)
    baseline = BaselineConfidence.of(baseline_table(run))
    bare = set(undefended(run))
    leaked = table.get("evaluator_confidence", pd.Series(np.nan, table.index))
    undefended_leakage = {
        str(name): float(value)
        for name, filter_, value in zip(table["attack"], table["filter"], leaked, strict=True)
        if filter_ in bare
    }
    rows = []
    for row, value in zip(table.to_dict("records"), leaked, strict=True):
        name = str(row["attack"])
        attack, evasions = evasion_rows.get(name, (name, ""))
        share = row["blocked"] / row["sessions"]
        low, high = clopper_pearson(row["blocked"], row["sessions"])
        reference = undefended_leakage.get(name, np.nan)
        labelled = None if np.isnan(baseline.largest) else cell_result(share, value, reference, baseline.largest)
        rows.append(
            {
                "attack": attack,
                "evasions": evasions,
                "population": name,
                "filter": str(row["filter"]),
                "attackers": row["sessions"],
                "blocked_share": share,
                "low": low,
                "high": high,
                "queries_to_block": row["restricted_mean_queries"],
                "budget_queries": row["budget_queries"],
                "sessions_used": row["sessions_used"],
                "clients_used": row["clients_used"],
                "queries_spent": row["queries_spent"],
                "leakage_at_block": value,
                "leakage_undefended": reference,
                "leakage_without_queries": baseline.zero_query,
                "leakage_labelled": baseline.labelled,
                "outcome": cell_result(share, value, reference, baseline.zero_query),
                "outcome_labelled": labelled,
            }
        )
    found = pd.DataFrame(rows)
    return found[~found["filter"].isin(bare)].reset_index(drop=True)


def user_matrix(run: Folder) -> pd.DataFrame:
    """Return one row per workload and filter, with the columns of ``matrix_users``, without undefended filters."""
    table = user_table(run)
    if table.empty:
        return table
    return table[~table["filter"].isin(undefended(run))][
        ["workload", "filter", "sessions", "blocked", "false_positive_rate", "low", "high"]
    ].reset_index(drop=True)


def write_matrix(run: Folder) -> None:
    """Write ``matrix_attacks.parquet`` and ``matrix_users.parquet`` to the run folder; an empty table has no file."""
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
    """Formatted result of one filter against one attack.

    Attributes
    ----------
    outcome : {"stopped", "delayed", "lost"}
        See `cell_result`; from the better zero-query baseline.
    labelled : str
        The same from the best of all three baselines; empty if the run has no labelled baseline.
    blocked : str
        Share of the attackers that were blocked.
    interval : str
        Exact 95% interval of this share.
    numbers : str
        Mean queries to block, and mean sessions and clients used if more than one.
    leak : str
        Evaluator confidence under the filter and undefended; empty if not scored.
    """

    outcome: str
    labelled: str
    blocked: str
    interval: str
    numbers: str
    leak: str


@dataclass(frozen=True)
class MatrixPage:
    """The attack matrix in the form that the page template reads.

    Attributes
    ----------
    filters : tuple of str
        Filters, in the order of the columns.
    groups : tuple of (str, tuple)
        Each attack with its rows; a row is the evasions and one cell per filter.
    tally : tuple of (str, str, str)
        Each filter, and its number of cells with each outcome as text: from the better zero-query baseline, and from
        the best of all three baselines (empty if the run has no labelled baseline).
    """

    filters: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[str, tuple[MatrixCell, ...]], ...]], ...]
    tally: tuple[tuple[str, str, str], ...]

    @property
    def labelled(self) -> bool:
        """Whether the run has the labelled baseline."""
        return any(labelled for _, _, labelled in self.tally)


def matrix_page(run: Folder) -> MatrixPage | None:
    """Return the matrix for the page; None if the run has no attack with an evasion."""
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
            rows.append((str(evasions) or "no evasion", tuple(_cell(cells.loc[name]) for name in filters)))
        groups.append((str(attack), tuple(rows)))
    by_filter = {name: table[table["filter"] == name] for name in filters}
    tally = tuple((name, _tally(rows["outcome"]), _tally(rows["outcome_labelled"])) for name, rows in by_filter.items())
    return MatrixPage(filters, tuple(groups), tally)


def _tally(outcomes: pd.Series) -> str:
    """Return the number of cells with each outcome as text; empty if there are no outcomes."""
    if outcomes.isna().all():
        return ""
    return ", ".join(f"{kind} {int(outcomes.eq(kind).sum())}" for kind in get_args(CellResult))


def _cell(row: pd.Series) -> MatrixCell:
    censored = row["blocked_share"] < 1
    numbers = f"{queries(row['queries_to_block'], at_least=censored)} queries"
    if row["sessions_used"] > 1:
        numbers += f" in {row['sessions_used']:.1f} sessions"
    if row["clients_used"] > 1:
        numbers += f" of {row['clients_used']:.1f} clients"
    leak = ""
    if not missing(float(row["leakage_at_block"])):
        leak = f"evaluator confidence {row['leakage_at_block']:.2f}"
        if not missing(float(row["leakage_undefended"])):
            leak += f", undefended {row['leakage_undefended']:.2f}"
    interval = f"{percent(float(row['low']))} to {percent(float(row['high']))}"
    blocked = percent(float(row["blocked_share"]))
    labelled = "" if missing(row["outcome_labelled"]) else str(row["outcome_labelled"])
    return MatrixCell(str(row["outcome"]), labelled, blocked, interval, numbers, leak)


def _evasions(run: Folder) -> dict[str, tuple[str, str]]:
    """Return, for each attack population of the study, the name of its attack and its evasions."""
    path = run / "study.toml"
    try:
        study: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot read the study file: {error}") from None
    found = {}
    for attack in study.get("attacks", []):
        evasions = [_with_arguments(evasion) for evasion in attack.get("evasions", [])]
        found[str(attack["name"])] = _attack_name(attack), " + ".join(evasions)
    return found


def _attack_name(attack: dict[str, Any]) -> str:
    """Return the name of an attack population without the suffixes of its evasions (``+decoys``, ``+decoys 20``)."""
    name = str(attack["name"])
    for evasion in reversed(attack.get("evasions", [])):
        name = re.sub(rf"\+{re.escape(next(iter(evasion)))}( [^+]*)?$", "", name)
    return name


def _with_arguments(evasion: dict[str, Any]) -> str:
    ((name, arguments),) = evasion.items()
    shown = ", ".join(f"{key} {value}" for key, value in arguments.items())
    return f"{name} ({shown})" if shown else name
