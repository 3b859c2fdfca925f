"""Charts of the report page, made from the tables of a run."""

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
    """A figure with its title and note.

    Attributes
    ----------
    name : str
        HTML id, unique on the page.
    title : str
        Title above the figure.
    figure : dict
        Plotly figure; see `reports.figures`.
    note : str
        Text below the figure, for facts that the figure does not show; may be empty.
    """

    name: str
    title: str
    figure: Figure
    note: str = ""

    @property
    def json(self) -> Markup:
        """The figure as JSON, escaped so that it cannot close the script element that contains it."""
        text = json.dumps(self.figure, allow_nan=False, separators=(",", ":"))
        return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704

    @property
    def height(self) -> int:
        """Height of the figure, in pixels."""
        return int(self.figure["layout"]["height"])


def pareto_chart(
    run: Folder, pareto: pd.DataFrame | None, limits: Mapping[str, float], look: Mapping[str, Style]
) -> Chart | None:
    """Return the chart of false-positive rate and queries to block; None if the run has no Pareto front."""
    if pareto is None or pareto.empty:
        return None
    figure = pareto_figure(pareto, trial_table(run), max(limits.values(), default=None), look)
    return Chart("pareto", "Trade-off between detection speed and false positives", figure)


def survival_charts(rows: pd.DataFrame, filters: Sequence[str], look: Mapping[str, Style]) -> list[Chart]:
    """Return one chart per attack: survival curves of its attackers, one curve per filter."""
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
    """Return the chart of false-positive rates by workload and filter; None if there are no honest users."""
    users = user_table(run)
    if users.empty:
        return None
    users = users[~users["filter"].isin(unfiltered)].sort_values(
        "filter", key=lambda names: names.ne(CALIBRATED), kind="stable"
    )
    if users.empty:
        return None
    return Chart("false-positives", "False-positive rates", false_positive_figure(users, look, limits))


def progress_charts(
    run: Folder, rows: pd.DataFrame, pareto: pd.DataFrame | None, limits: Mapping[str, float], region: float
) -> list[Chart]:
    """Return the charts of the search's progress, trial by trial; an empty list if the run has no trials."""
    trials = trial_table(run)
    if trials is None or trials.empty:
        return []
    budget = float(rows.loc[rows["role"] == "attacker", "budget_queries"].max())
    progress = search_progress(trials, pareto, budget=budget, limit=min(limits.values(), default=None), region=region)
    steps = [float(number) for number in range(1, len(trials) + 1)]
    best = progress_figure(steps, progress.best, "mean queries to block", share=False)
    if progress.found is None:
        volumes, reference = progress.hypervolume, "the objective region"
    else:
        volumes, reference = progress.found, "the hypervolume of the reference front"
    volume = progress_figure(steps, volumes, "hypervolume", share=True)
    return [
        Chart("best", "Best configuration so far within the false-positive limit", best),
        Chart("hypervolume", f"Hypervolume found, as a share of {reference}", volume),
    ]


def limits(certification: pd.DataFrame | None) -> dict[str, float]:
    """Return the false-positive limit of each workload in the certification; empty without a certification."""
    if certification is None:
        return {}
    pairs = certification.drop_duplicates("workload")
    return {str(name): float(limit) for name, limit in zip(pairs["workload"], pairs["limit"], strict=True)}
