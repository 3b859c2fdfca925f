"""The charts of a page, from a run's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from mifsim.tables.storage import Folder
from reports import wording
from reports.figures import Figure, false_positive_figure, pareto_figure, progress_figure, survival_figure
from reports.search_progress import search_progress
from reports.styles import CALIBRATED, Style
from reports.tables import attackers, survival_of, trial_table, user_table


@dataclass(frozen=True)
class Chart:
    """A figure on the page.

    Attributes
    ----------
    name : str
        Unique on the page.
    title : str
    figure : dict
        See `reports.figures`.
    note : str
        What the reader could not see in it.
    """

    name: str
    title: str
    figure: Figure
    note: str = ""

    @property
    def json(self) -> Markup:
        """The figure for a script element: nothing in it can end that element."""
        text = json.dumps(self.figure, allow_nan=False, separators=(",", ":"))
        return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.figure["layout"]["height"])


def pareto_chart(
    run: Folder, pareto: pd.DataFrame | None, limits: Mapping[str, float], look: Mapping[str, Style]
) -> Chart | None:
    """Return the configurations of a calibration, speed against false positives; None where there are none."""
    if pareto is None or pareto.empty:
        return None
    figure = pareto_figure(pareto, trial_table(run), max(limits.values(), default=None), look)
    return Chart("pareto", "Detection speed against false positives", figure)


def survival_charts(rows: pd.DataFrame, filters: Sequence[str], look: Mapping[str, Style]) -> list[Chart]:
    """Return, for each attack, how long its attackers last under each filter."""
    attacks = attackers(rows)
    charts = []
    for place, attack in enumerate(attacks["population"].unique()):
        of_attack = attacks[attacks["population"] == attack]
        groups = {name: of_attack[of_attack["filter"] == name] for name in filters}
        curves = {name: survival_of(group) for name, group in groups.items() if len(group)}
        figure = survival_figure(curves, look, int(of_attack["budget_queries"].max()))
        never = [name for name, group in groups.items() if len(group) and not group["outcome"].eq("blocked").any()]
        note = f"Never blocked: {wording.listed(never)}." if never else ""
        charts.append(Chart(f"survival-{place}", str(attack), figure, note))
    return charts


def false_positive_chart(
    run: Folder, unfiltered: Sequence[str], look: Mapping[str, Style], limits: Mapping[str, float]
) -> Chart | None:
    """Return the share of honest sessions blocked, by workload and filter; None without users."""
    users = user_table(run)
    if users.empty:
        return None
    users = users[~users["filter"].isin(unfiltered)].sort_values(
        "filter", key=lambda names: names.ne(CALIBRATED), kind="stable"
    )
    if users.empty:
        return None
    return Chart("false-positives", "Honest sessions blocked", false_positive_figure(users, look, limits))


def progress_charts(
    run: Folder, rows: pd.DataFrame, pareto: pd.DataFrame | None, limits: Mapping[str, float], region: float
) -> list[Chart]:
    """Return the progress of the search, trial by trial; none where nothing was searched."""
    trials = trial_table(run)
    if trials is None or trials.empty:
        return []
    budget = float(rows.loc[rows["role"] == "attacker", "budget_queries"].max())
    progress = search_progress(trials, pareto, budget=budget, limit=min(limits.values(), default=None), region=region)
    steps = [float(number) for number in range(1, len(trials) + 1)]
    best = progress_figure(steps, progress.best, "queries to block", share=False)
    volumes, of = (
        (progress.hypervolume, "the region") if progress.found is None else (progress.found, "the reference front")
    )
    volume = progress_figure(steps, volumes, "hypervolume", share=True)
    return [
        Chart("best", "Best configuration within the limit so far", best),
        Chart("hypervolume", f"Hypervolume found, as a share of {of}", volume),
    ]


def limits(certification: pd.DataFrame | None) -> dict[str, float]:
    """Return the limit of each workload, as it was certified against; empty where nothing was."""
    if certification is None:
        return {}
    pairs = certification.drop_duplicates("workload")
    return {str(name): float(limit) for name, limit in zip(pairs["workload"], pairs["limit"], strict=True)}
