"""Writes the table ``leakage_sets``: the literature's metrics of attacks under each filter, and of the baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.leakage import Images, LeakageScorer, Scores
from mifsim.leakage_sets import Reconstructions, set_scores
from mifsim.study import Study
from mifsim.tables.records import TableWriter, read_table
from mifsim.tables.storage import Folder
from mifsim.victims import PreparedEvaluator
from mifsim.victims.accuracy import Accuracy

METRICS = (
    "accuracy_at_1", "accuracy_at_5", "identified", "identified_by_ssim", "knn_distance",
    "precision", "recall", "density", "coverage",
)  # fmt: skip
"""The metrics, each of which has three columns: its value and its interval, ``_low`` and ``_high``."""


class ScoredSets:
    """The scores of the last reconstructions of a run's sessions, and of its baselines.

    Parameters
    ----------
    scorer : LeakageScorer
    evaluator : PreparedEvaluator
    """

    def __init__(self, scorer: LeakageScorer, evaluator: PreparedEvaluator) -> None:
        self._scorer = scorer
        self._evaluator = evaluator
        self._sessions: dict[str, Reconstructions] = {}
        self._baselines: dict[str, list[Reconstructions]] = {}

    def add_baseline(self, kind: str, images: Images, targets: npt.NDArray[np.int64], scores: Scores) -> None:
        """Add the images of a baseline for one class."""
        self._baselines.setdefault(kind, []).append(self._reconstructions(images, targets, scores))

    def add_sessions(
        self, sessions: Sequence[str], images: Images, targets: npt.NDArray[np.int64], scores: Scores
    ) -> None:
        """Add the last reconstructions of sessions."""
        found = self._reconstructions(images, targets, scores)
        for row, session in enumerate(sessions):
            self._sessions[session] = found.rows(np.array([row]))

    def _reconstructions(self, images: Images, targets: npt.NDArray[np.int64], scores: Scores) -> Reconstructions:
        return Reconstructions(
            targets,
            scores.evaluator_rank,
            scores.nearest_class,
            self._scorer.most_similar_class(images),
            scores.feature_distance,
            scores.features,
        )

    def write(self, run: Folder, study: Study, facts: Mapping[str, str]) -> None:
        """Write ``leakage_sets.parquet``."""
        accuracy = Accuracy.from_facts(self._evaluator.facts)
        low, high = accuracy.interval
        shared = {"evaluator_accuracy": accuracy.value, "evaluator_low": low, "evaluator_high": high}
        with TableWriter(run / "leakage_sets.parquet", "leakage_sets", facts) as writer:
            for name, items in self._groups(run, study):
                row = {**name, **shared, **self._scores(items)}
                writer.write({column: [row[column]] for column in writer.schema.names})

    def _groups(self, run: Folder, study: Study) -> Iterator[tuple[dict[str, Any], Reconstructions]]:
        """Yield the attackers of each filter and population, in the order of the study, then the baselines."""
        members: dict[tuple[str, str], list[Reconstructions]] = {}
        for filter_, population, session in last_sessions(run):
            if session in self._sessions:
                members.setdefault((filter_, population), []).append(self._sessions[session])
        order = {
            (filter_.name, attack.name): place
            for place, (filter_, attack) in enumerate((f, a) for f in study.filters for a in study.attacks)
        }
        for key in sorted(members, key=lambda key: (order.get(key, len(order)), key)):
            yield {"kind": "attack", "filter": key[0], "population": key[1]}, Reconstructions.joined(members[key])
        for kind, parts in self._baselines.items():
            yield {"kind": kind, "filter": None, "population": None}, Reconstructions.joined(parts)

    def _scores(self, items: Reconstructions) -> dict[str, Any]:
        scores = set_scores(items, self._scorer.private_features, self._evaluator.classes)
        row: dict[str, Any] = {
            name: getattr(scores, name)
            for name in ("reconstructions", "classes", "private_images", "neighbours", "recall_neighbours")
        }
        for metric in METRICS:
            found = getattr(scores, metric)
            for suffix, value in zip(("", "_low", "_high"), found, strict=True):
                row[metric + suffix] = None if np.isnan(value) else float(value)
        return row


def last_sessions(run: Folder) -> list[tuple[str, str, str]]:
    """Return filter, population and the id of the last session of each attacker that did not fail.

    The last session is the one with the attacker's last query: its reconstruction is the one that leaks. The sessions
    are in the order of the client ids, because sums and resamples depend on it in the last bits; the order of the rows
    depends on which clients ran together.
    """
    columns = ["session_id", "client_id", "role", "population", "filter", "outcome", "last_query"]
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for row in read_table(run, "sessions", columns).to_pylist():
        if row["role"] != "attacker" or row["outcome"] == "failed":
            continue
        key = (row["filter"], row["client_id"])
        if key not in last or (row["last_query"] or 0) >= (last[key]["last_query"] or 0):
            last[key] = row
    ordered = sorted(last.values(), key=lambda row: (row["filter"], _numbers_and_text(row["client_id"])))
    return [(row["filter"], row["population"], row["session_id"]) for row in ordered]


def _numbers_and_text(client: str) -> list[tuple[int, str]]:
    """Return a key that sorts ids such as ``mi-face/10/2`` by their numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in client.split("/")]
