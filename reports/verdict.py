"""Main result of a run in sentences: the chosen configuration and its guarantee, or the sessions that are missing."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mifsim.errors import RunError
from mifsim.statistics import sessions_needed
from mifsim.tables.storage import Folder
from reports.comparison import undefended
from reports.styles import CALIBRATED
from reports.tables import attack_table, facts, user_table
from reports.wording import count, limit, listed, percent, queries


@dataclass(frozen=True)
class Shortfall:
    """Number of honest sessions that a candidate needs to be certified on one workload.

    Attributes
    ----------
    workload : str
    limit : float
        Limit of the false-positive rate, in (0, 1).
    sessions, blocked : int
        Sessions of the calibration split, and how many of them the candidate blocks.
    needed : int
        Total number of sessions with which the candidate would pass if it blocked no further session.
    """

    workload: str
    limit: float
    sessions: int
    blocked: int
    needed: int

    @property
    def more(self) -> int:
        """Number of additional sessions."""
        return max(0, self.needed - self.sessions)


def filter_file(run: Folder) -> dict[str, Any] | None:
    """Return the content of ``filter.toml``; None if the run has no such file.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    path = run / "filter.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}; expected a TOML file with a table [filter]") from None


def calibration_section(run: Folder) -> dict[str, Any]:
    """Return the table ``[tuning]`` of the run's study; empty if the study has none.

    Raises
    ------
    RunError
        If ``study.toml`` is missing or damaged.
    """
    try:
        found = tomllib.loads((run / "study.toml").read_text(encoding="utf-8")).get("tuning", {})
    except (OSError, ValueError) as error:
        raise RunError(f"{run / 'study.toml'}: cannot be read: {error}; expected the study as a TOML file") from None
    return dict(found)


def shortfalls(certification: pd.DataFrame, confidence: float, procedure: str) -> list[Shortfall]:
    """Return, for each workload, the sessions that the candidate closest to certification still needs.

    Parameters
    ----------
    certification : DataFrame
        In testing order, as `reports.tables.certification_table` returns it.
    confidence : float
        Confidence of the guarantee, in (0, 1).
    procedure : {"fixed_sequence", "holm"}
        The multiple-testing procedure. In a fixed sequence, the first candidate must pass at the full level
        ``1 - confidence``. In Holm's procedure, the candidate with the smallest p-value must pass at that level
        divided by the number of candidates.

    Returns
    -------
    list of Shortfall
        One per workload; empty if there are no candidates.
    """
    candidates = [rows for _, rows in certification.groupby(["kind", "config"], sort=False)]
    if not candidates:
        return []
    nearest, delta = candidates[0], 1 - confidence
    if procedure == "holm":
        nearest, delta = min(candidates, key=lambda rows: rows["p_value"].max()), delta / len(candidates)
    return [
        Shortfall(
            str(row["workload"]),
            float(row["limit"]),
            int(row["sessions"]),
            int(row["blocked"]),
            sessions_needed(int(row["blocked"]), int(row["sessions"]), float(row["limit"]), delta).same_count,
        )
        for _, row in nearest.iterrows()
    ]


def headline(run: Folder, *, calibration: bool, chosen: bool) -> str:
    """Return the title of the page: the main result in one sentence.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    calibration : bool
        Whether the run is a calibration.
    chosen : bool
        Whether it chose a configuration.
    """
    attacks, users = attack_table(run), user_table(run)
    if calibration and not chosen and "chosen" not in (facts(run).get("tuning") or {}):
        return "This calibration is not complete"
    if calibration and not chosen:
        return "No configuration was certified, so none was chosen"
    if chosen and CALIBRATED in set(attacks.get("filter", [])):
        calibrated = _slowest(attacks[attacks["filter"] == CALIBRATED])
        text = f"The calibrated filter blocks the attack that lasts longest after {calibrated} queries on average"
        others = attacks[~attacks["filter"].isin([CALIBRATED, *undefended(run)])]
        return text if others.empty else f"{text}, compared with {_best_other(others)}"
    if attacks.empty:
        return f"{count(int(users['sessions'].sum()), 'honest session')} ran under the filters"
    blocked = attacks.groupby("filter", observed=True, sort=False)[["blocked", "sessions"]].sum()
    first = blocked.sort_values("blocked", ascending=False, kind="stable").reset_index().iloc[0]
    if first["blocked"] == 0:
        return "No filter blocked any attacker"
    if len(blocked) == 1:
        return f"{first['filter']} blocked {first['blocked']:,} of {count(int(first['sessions']), 'attacker')}"
    filters = count(len(blocked), "filter")
    return f"Of {filters}, {first['filter']} blocked the most attackers: {first['blocked']:,} of {first['sessions']:,}"


def _slowest(rows: pd.DataFrame) -> str:
    """Return the mean queries to block of the attack for which they are largest."""
    slowest = rows.sort_values("restricted_mean_queries", ascending=False, kind="stable").iloc[0]
    more = "more than " if slowest["blocked"] < slowest["sessions"] else ""
    return more + queries(slowest["restricted_mean_queries"])


def _best_other(rows: pd.DataFrame) -> str:
    """Return the smallest value of `_slowest` among the filters of these rows, with the name of the filter."""
    slowest = rows.groupby("filter", observed=True, sort=False)["restricted_mean_queries"].max()
    best = slowest[slowest == slowest.min()]
    needed = _slowest(rows[rows["filter"] == best.index[0]])
    if len(best) == len(slowest) > 1:
        return f"{needed} under every other filter"
    return f"{needed} under {best.index[0]}{', the best other filter' if len(slowest) > 1 else ''}"


def worst_users(run: Folder, filter_: str, limits: Mapping[str, float]) -> str:
    """Return a sentence about the workload with the highest false-positive rate of a filter on the test sessions.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    filter_ : str
        Name of the filter.
    limits : mapping of workload to float
        False-positive limits, in [0, 1].

    Returns
    -------
    str
        Empty if the filter has no honest sessions.
    """
    users = user_table(run)
    rows = users[users["filter"] == filter_] if len(users) else users
    if rows.empty:
        return ""
    row = rows.sort_values("false_positive_rate", ascending=False, kind="stable").iloc[0]
    interval = f"95% interval {percent(row['low'])} to {percent(row['high'])}"
    if row["blocked"] == 0:
        total = count(int(rows["sessions"].sum()), "honest session")
        return f"In the live test, the filter blocked none of {total} ({row['workload']}: {interval})."
    text = (
        f"In the live test, the workload with the highest false-positive rate is {row['workload']}: the filter blocked "
        f"{row['blocked']} of {row['sessions']:,} sessions, {percent(row['false_positive_rate'])} ({interval})."
    )
    allowed = limits.get(str(row["workload"]))
    if allowed is None or row["false_positive_rate"] <= allowed:
        return text
    comparison = "the interval contains the limit" if row["low"] <= allowed else "the whole interval is above the limit"
    return f"{text} This rate is above the limit of {limit(allowed)}; {comparison}."


def guarantee_text(rows: pd.DataFrame, confidence: float) -> str:
    """Return the statistical guarantee of the chosen configuration in sentences.

    Parameters
    ----------
    rows : DataFrame
        The configuration's rows of `reports.tables.certification_table`, one per workload.
    confidence : float
        Confidence of the guarantee, in (0, 1).
    """
    limits = sorted({float(limit) for limit in rows["limit"]})
    names = listed([str(name) for name in rows["workload"]])
    share = f"at most {limit(limits[-1])}" if len(limits) == 1 else "no more than its limit"
    sessions = sorted({int(n) for n in rows["sessions"]})
    counted = f"{sessions[0]:,}" if len(sessions) == 1 else f"{sessions[0]:,} to {sessions[-1]:,}"
    return (
        f"With {100 * confidence:.4g}% confidence, this configuration blocks {share} of the sessions of each honest "
        f"workload ({names}). Exact tests used {counted} sessions of each workload that the search did not use; the "
        f"largest p-value is {rows['p_value'].max():.3g}. The guarantee is valid for sessions of the same workloads, "
        "with these data, this victim and this transport."
    )
