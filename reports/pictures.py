"""What attackers held when they were stopped, as pictures inside the page."""

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
"""Target labels shown an attack, at most."""


@dataclass(frozen=True)
class Picture:
    """One guess.

    Attributes
    ----------
    uri : str
        ``data:image/png;base64,...``.
    query : int
        The last answered query, after which the attacker held it.
    blocked : bool
        Whether the next query was refused; else the attacker came to its own end.
    alt : str
        What is to be seen, in words.
    """

    uri: str
    query: int
    blocked: bool
    alt: str


@dataclass(frozen=True)
class Gallery:
    """One attack's pictures: a row a target, a column a filter.

    Attributes
    ----------
    attack : str
    filters : tuple of str
    rows : tuple of (str, tuple of Picture or None)
        Name of the target, and what each filter left; None where nothing was held.
    left_out : int
        Targets that are not shown.
    """

    attack: str
    filters: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Picture | None, ...]], ...]
    left_out: int


def galleries(run: Folder, filters: Sequence[str], facts: Mapping[str, Any]) -> list[Gallery]:
    """Return a gallery for each attack, of the first trial against each target; none without snapshots."""
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
    alt = f"Guess at {target} under {filter_}, {end}, held after {answered}"
    known = confidence.get(row["session_id"])
    if not missing(known):
        alt += f"; the evaluator's confidence in {target} is {known:.2f}"
    uri = "data:image/png;base64," + base64.b64encode(row["guess_png"]).decode()
    return Picture(uri, int(row["query"]), bool(blocked), alt)
