"""The answer of a run, in a few words and numbers: what was chosen, what it promises, or what is lacking."""

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
    """Why the candidate nearest to being certified is not, for one workload.

    Attributes
    ----------
    workload : str
    limit : float
    sessions, blocked : int
        Of the certification part, by this candidate.
    needed : int
        Sessions in all with which it would pass, if no more of them were blocked than were.
    """

    workload: str
    limit: float
    sessions: int
    blocked: int
    needed: int

    @property
    def more(self) -> int:
        """Sessions that are lacking."""
        return max(0, self.needed - self.sessions)


def filter_file(run: Folder) -> dict[str, Any] | None:
    """Return what ``filter.toml`` says, None where the run chose nothing."""
    path = run / "filter.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None


def calibration_section(run: Folder) -> dict[str, Any]:
    """Return the ``[tuning]`` table of the study as it ran; empty where the run calibrated nothing."""
    try:
        found = tomllib.loads((run / "study.toml").read_text(encoding="utf-8")).get("tuning", {})
    except (OSError, ValueError) as error:
        raise RunError(f"{run / 'study.toml'}: cannot be read: {error}") from None
    return dict(found)


def shortfalls(certification: pd.DataFrame, confidence: float, procedure: str) -> list[Shortfall]:
    """Return what each workload lacks for the candidate that comes first.

    Parameters
    ----------
    certification : DataFrame
        In the order of testing, as `reports.tables.certification_table` gives it.
    confidence : float
        Of the guarantee, in (0, 1).
    procedure : {"fixed_sequence", "holm"}
        How settings were tested. The first of a fixed sequence must pass at the whole level; under Holm's procedure
        the one with the least p-value must, at the level shared by all.
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
    """Return the page's first line."""
    attacks, users = attack_table(run), user_table(run)
    if calibration and not chosen and "chosen" not in (facts(run).get("tuning") or {}):
        return "This calibration has not come to its end"
    if calibration and not chosen:
        return "No configuration could be certified, so none was chosen"
    if chosen and CALIBRATED in set(attacks.get("filter", [])):
        calibrated = _slowest(attacks[attacks["filter"] == CALIBRATED])
        text = f"With the calibrated filter the longest-lasting attack is blocked after {calibrated} queries on average"
        rest = attacks[~attacks["filter"].isin([CALIBRATED, *undefended(run)])]
        return text if rest.empty else f"{text}, against {_best_other(rest)}"
    if attacks.empty:
        return f"{count(int(users['sessions'].sum()), 'honest session')} met the filters"
    blocked = attacks.groupby("filter", observed=True, sort=False)[["blocked", "sessions"]].sum()
    first = blocked.sort_values("blocked", ascending=False, kind="stable").reset_index().iloc[0]
    if first["blocked"] == 0:
        return "No filter here blocked a single attack session"
    counted = f"{first['blocked']:,} of {count(int(first['sessions']), 'attack session')}"
    among = f"Of {count(len(blocked), 'filter')}, " if len(blocked) > 1 else ""
    return f"{among}{first['filter']} blocked {'the most: ' if among else ''}{counted}"


def _slowest(rows: pd.DataFrame) -> str:
    worst = rows.sort_values("restricted_mean_queries", ascending=False, kind="stable").iloc[0]
    more = "more than " if worst["blocked"] < worst["sessions"] else ""
    return more + queries(worst["restricted_mean_queries"])


def _best_other(rows: pd.DataFrame) -> str:
    worst = rows.groupby("filter", observed=True, sort=False)["restricted_mean_queries"].max()
    best = worst[worst == worst.min()]
    needed = _slowest(rows[rows["filter"] == best.index[0]])
    if len(best) == len(worst) > 1:
        return f"{needed} under every other filter"
    return f"{needed} under {best.index[0]}{', the best of the others' if len(worst) > 1 else ''}"


def worst_users(run: Folder, filter_: str, limits: Mapping[str, float]) -> str:
    """Return, in words, what a filter does to the honest workload that it treats worst, live."""
    users = user_table(run)
    rows = users[users["filter"] == filter_] if len(users) else users
    if rows.empty:
        return ""
    row = rows.sort_values("false_positive_rate", ascending=False, kind="stable").iloc[0]
    interval = f"95% interval {percent(row['low'])} to {percent(row['high'])}"
    if row["blocked"] == 0:
        total = count(int(rows["sessions"].sum()), "honest session")
        return f"On test sessions, live, it blocked none of {total} ({row['workload']}: {interval})."
    text = (
        f"On test sessions, live, the workload it treats worst is {row['workload']}: {row['blocked']} of "
        f"{row['sessions']:,} blocked, {percent(row['false_positive_rate'])} ({interval})."
    )
    allowed = limits.get(str(row["workload"]))
    if allowed is None or row["false_positive_rate"] <= allowed:
        return text
    place = "the interval reaches below it" if row["low"] <= allowed else "so is the whole interval"
    return f"{text} That is above the limit of {limit(allowed)}; {place}."


def guarantee_text(rows: pd.DataFrame, confidence: float) -> str:
    """Return the guarantee in words, from the chosen setting's rows of the certification."""
    limits = sorted({float(limit) for limit in rows["limit"]})
    names = listed([str(name) for name in rows["workload"]])
    share = f"at most {limit(limits[-1])}" if len(limits) == 1 else "no more than its limit"
    sessions = sorted({int(n) for n in rows["sessions"]})
    counted = f"{sessions[0]:,}" if len(sessions) == 1 else f"{sessions[0]:,} to {sessions[-1]:,}"
    return (
        f"With {100 * confidence:.4g}% confidence, it blocks {share} of the sessions of each honest workload "
        f"({names}). That was tested on {counted} sessions of each that the search never saw; the largest p-value is "
        f"{rows['p_value'].max():.3g}. It holds for sessions like these, with "
        "these data, this victim and this transport."
    )
