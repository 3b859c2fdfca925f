"""Undefended attacks with better intervals than the zero-query baselines, and what the other attacks lack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mifsim.tables.storage import Folder
from reports.comparison import undefended
from reports.leakage_metrics import BASELINES
from reports.tables import leakage_sets_table
from reports.wording import count, missing, percent

ZERO_QUERY = ("prior", "random")
"""The baselines without a query; see `mifsim.run.baselines`."""


@dataclass(frozen=True)
class Verdict:
    """Whether an attack beats the zero-query baselines.

    Attributes
    ----------
    attack : str
    reasons : tuple of str
        In which metric it does not; empty if it beats them.
    """

    attack: str
    reasons: tuple[str, ...]


def verdicts(run: Folder) -> list[Verdict]:
    """Return a verdict for each undefended attack of a run; empty if the run has no metrics.

    An attack beats a baseline if the lower bound of its accuracy at 1 is above the upper bound of the baseline's, and
    the upper bound of its mean KNN distance is below the lower bound of the baseline's. It has to beat both.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    """
    frame = leakage_sets_table(run)
    if frame is None:
        return []
    rows = frame.to_dict("records")
    baselines = [row for row in rows if str(row["kind"]) in ZERO_QUERY]
    names = undefended(run)
    attacks = [row for row in rows if not missing(row["population"]) and str(row["filter"]) in names]
    return [Verdict(str(row["population"]), tuple(_reasons(row, baselines))) for row in attacks]


def sentences(found: list[Verdict]) -> list[str]:
    """Return the verdicts in words: the attacks that beat the baselines, then each of the others with its reasons."""
    if not found:
        return []
    better = [verdict.attack for verdict in found if not verdict.reasons]
    names = f": {', '.join(better)}" if better else ""
    first = (
        f"{len(better)} of {count(len(found), 'attack')} beat both zero-query baselines in accuracy at 1 and in KNN "
        f"distance, with 95% intervals that do not overlap{names}."
    )
    return [first, *(f"Not {verdict.attack}: {'; '.join(verdict.reasons)}." for verdict in found if verdict.reasons)]


def _reasons(row: Mapping[Any, Any], baselines: list[dict[Any, Any]]) -> Iterator[str]:
    """Yield a reason for each metric and baseline in which an attack is not better."""
    for metric, title, sign in (("accuracy_at_1", "accuracy at 1", 1), ("knn_distance", "KNN distance", -1)):
        for baseline in baselines:
            if any(missing(item[f"{metric}_{bound}"]) for item in (row, baseline) for bound in ("low", "high")):
                yield f"the {title} has no interval (one reconstruction of one class)"
                break
            lowest, highest = ("low", "high") if sign > 0 else ("high", "low")
            if sign * row[f"{metric}_{lowest}"] > sign * baseline[f"{metric}_{highest}"]:
                continue
            name = BASELINES[str(baseline["kind"])]
            better = sign * row[metric] > sign * baseline[metric]
            problem = "overlaps with" if better else "is not better than"
            yield f"{title} {_shown(row, metric)} {problem} {_shown(baseline, metric)} of {name}"


def _shown(row: Mapping[Any, Any], metric: str) -> str:
    def text(value: float) -> str:
        return percent(value) if metric == "accuracy_at_1" else f"{value:.2f}"

    return f"{text(row[metric])} ({text(row[f'{metric}_low'])} to {text(row[f'{metric}_high'])})"
