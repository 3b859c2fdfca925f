"""The literature's metrics of leakage, as rows of text for the terminal and the page."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mifsim.tables.storage import Folder
from reports.baselines import LABELLED
from reports.tables import leakage_sets_table
from reports.wording import missing, percent

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("accuracy_at_1", "accuracy at 1", "reconstructions that the evaluator classifies as their target"),
    ("accuracy_at_5", "at 5", "the target is among the evaluator's first five classes; only with more than five"),
    ("identified", "nearest", "the nearest private image of all classes shows the target"),
    ("identified_by_ssim", "by SSIM", "the same for the private image with the largest SSIM, without the evaluator"),
    ("knn_distance", "KNN distance", "mean distance to the nearest private image of the class; smaller means leakage"),
    ("precision", "precision", "reconstructions within the k-th neighbour's distance of a private image of the class"),
    ("recall", "recall", "private images of the class within the k-th neighbour's distance of a reconstruction"),
    ("density", "density", "number of private images with the reconstruction so near, divided by k"),
    ("coverage", "coverage", "private images of the class with a reconstruction so near"),
)
"""Column of the table ``leakage_sets``, its title, and its meaning, for each metric."""

NEEDS = (
    "Accuracy needs the answers of the evaluator; all other metrics but one need its features, and the private images. "
    "Intervals at 95%: exact for shares of reconstructions, bootstrap with a fixed seed for KNN distance, recall, "
    "density and coverage. Identical reconstructions of a class count once."
)
BASELINES = {
    "prior": "auxiliary images (no query)",
    "random": "noise (no query)",
    LABELLED: "labelled auxiliary images",
}
"""The names of the baselines, by their kind."""


@dataclass(frozen=True)
class MetricRow:
    """The metrics of one attack under one filter, or of one baseline.

    Attributes
    ----------
    filter : str
        Empty for a baseline.
    name : str
        The attack, or the baseline.
    reconstructions : str
        Their number.
    cells : tuple of str
        The metrics with their intervals, in the order of `COLUMNS`.
    """

    filter: str
    name: str
    reconstructions: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Metrics:
    """The rows of the table, and what they have in common.

    Attributes
    ----------
    rows : list of MetricRow
    evaluator : str
        The evaluator's own accuracy, with its interval.
    evaluator_share : str
        The same without the interval, for each row.
    neighbours : str
        The k of precision, density and coverage, and that of recall.
    """

    rows: list[MetricRow]
    evaluator: str
    evaluator_share: str
    neighbours: str

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Title and meaning of each metric."""
        return [(title, meaning) for _, title, meaning in COLUMNS]


def metrics(run: Folder, filters: Collection[str] | None = None) -> Metrics | None:
    """Return the metrics of a run; None if it has none.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    filters : collection of str or None
        The filters whose attacks are shown; None: all. Baselines are always shown.
    """
    frame = leakage_sets_table(run)
    if frame is None or frame.empty:
        return None
    shown = frame[frame["filter"].isna() | frame["filter"].isin(list(frame["filter"]) if filters is None else filters)]
    if shown.empty:
        return None
    rows = [
        MetricRow(
            "" if missing(row["filter"]) else str(row["filter"]),
            BASELINES.get(str(row["kind"]), str(row["kind"])) if missing(row["population"]) else str(row["population"]),
            f"{int(row['reconstructions']):,}",
            tuple(_cell(row, key) for key, _, _ in COLUMNS),
        )
        for row in shown.to_dict("records")
    ]
    first = shown.iloc[0]
    accuracy = percent(first["evaluator_accuracy"])
    interval = f"95% interval {percent(first['evaluator_low'])} to {percent(first['evaluator_high'])}"
    neighbours = f"{_neighbours(shown['neighbours'])}; recall: {_neighbours(shown['recall_neighbours'])}"
    return Metrics(rows, f"{accuracy} ({interval})", accuracy, neighbours)


def _neighbours(found: Any) -> str:
    low, high = int(found.min()), int(found.max())
    if not high:
        return "undefined, because each class has one"
    return f"k = {low}" if low == high else f"k = {low} to {high}"


def _cell(row: dict[Any, Any], key: str) -> str:
    if missing(row[key]):
        return "–"
    shown = (lambda value: f"{value:.2f}") if key in ("knn_distance", "density") else percent
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return shown(row[key]) if missing(low) else f"{shown(row[key])} ({shown(low)} to {shown(high)})"
