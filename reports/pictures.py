"""Galleries of the attackers' last reconstructions, as images embedded in the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mifsim.tables.storage import Folder
from reports.tables import last_guesses, leakage
from reports.wording import count, missing

ROWS = 10
"""Maximum number of target classes shown per attack."""


@dataclass(frozen=True)
class Picture:
    """The last reconstruction of one attacker.

    Attributes
    ----------
    uri : str
        The image as a URI: ``data:image/png;base64,...``.
    query : int
        Number of the attacker's last answered query.
    blocked : bool
        Whether the attacker was blocked at the next query.
    alt : str
        Description for the HTML attributes ``alt`` and ``title``.
    """

    uri: str
    query: int
    blocked: bool
    alt: str


@dataclass(frozen=True)
class Gallery:
    """The pictures of one attack: one row per target class, one column per filter.

    Attributes
    ----------
    attack : str
    filters : tuple of str
    rows : tuple of (str, tuple of Picture or None)
        Name of the target class, and one picture per filter; None if the attacker has no reconstruction.
    left_out : int
        Number of target classes that are not shown.
    """

    attack: str
    filters: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Picture | None, ...]], ...]
    left_out: int


def galleries(run: Folder, filters: Sequence[str], facts: Mapping[str, Any]) -> list[Gallery]:
    """Return one gallery per attack, of the first attacker of each target class; empty if the run has no snapshots.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    filters : sequence of str
        Filters, in the order of the columns.
    facts : mapping
        The content of ``run.json``; ``data.classes`` has the names of the classes.
    """
    guesses = last_guesses(run)
    if guesses is None or guesses.empty:
        return []
    scores = leakage(run)
    classes = facts.get("data", {}).get("classes", [])
    confidence: dict[str, float] = {}
    if scores is not None:
        of_last = scores[scores["last"]]
        confidence = dict(zip(of_last["session_id"], of_last["evaluator_confidence"].astype(float), strict=True))
    found = []
    for attack in guesses["population"].unique():
        of_attack = guesses[guesses["population"] == attack]
        targets = sorted(of_attack["target"].unique())
        rows = []
        for target in targets[:ROWS]:
            name = str(classes[target]) if target < len(classes) else str(target)
            leaked = of_attack[of_attack["target"] == target].set_index("filter")
            pictures = tuple(
                _picture(leaked.loc[filter_], filter_, name, confidence) if filter_ in leaked.index else None
                for filter_ in filters
            )
            rows.append((name, pictures))
        found.append(Gallery(str(attack), tuple(filters), tuple(rows), max(0, len(targets) - ROWS)))
    return found


def _picture(row: pd.Series, filter_: str, target: str, confidence: Mapping[str, float]) -> Picture:
    blocked = row["outcome"] == "blocked"
    end = f"blocked at query {row['queries']:,}" if blocked else "never blocked"
    answered = count(int(row["query"]), "answered query", "answered queries")
    alt = f"Reconstruction of {target} under {filter_} after {answered}; {end}"
    known = confidence.get(row["session_id"])
    if not missing(known):
        alt += f"; evaluator confidence in {target}: {known:.2f}"
    uri = "data:image/png;base64," + base64.b64encode(row["guess_png"]).decode()
    return Picture(uri, int(row["query"]), bool(blocked), alt)
