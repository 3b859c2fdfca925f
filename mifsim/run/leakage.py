"""Scores the snapshots of a run and the baselines, and writes the table ``leakage``."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from mifsim.data.base import DataSet
from mifsim.leakage import LeakageScorer, Scores
from mifsim.progress import Bar
from mifsim.run.baselines import baselines
from mifsim.run.leakage_sets import ScoredSets
from mifsim.study import Study
from mifsim.tables.records import TableWriter, open_table
from mifsim.tables.storage import Folder
from mifsim.victims import PreparedEvaluator, Victim

CHUNK_ROWS = 512


def score_run(
    run: Folder,
    study: Study,
    data: DataSet,
    victim: Victim,
    evaluator: PreparedEvaluator,
    facts: Mapping[str, str],
    *,
    sets: bool = True,
) -> None:
    """Score ``snapshots/`` and write ``leakage/scores.parquet``, in chunks of `CHUNK_ROWS` rows.

    Parameters
    ----------
    run : Path or RemotePath
    study : Study
    data : DataSet
    victim : Victim
        The model under attack; it labels the auxiliary images for the labelled baseline.
    evaluator : PreparedEvaluator
    facts : mapping of str to str
        Metadata of the file.
    sets : bool
        Whether to write ``leakage_sets.parquet`` too, with the metrics of each attack under each filter.
    """
    snapshots = open_table(run, "snapshots")
    private = data.subset("private")
    scorer = LeakageScorer(evaluator.load(), private, private.labels)
    scored = ScoredSets(scorer, evaluator) if sets else None
    with TableWriter(run / "leakage" / "scores.parquet", "leakage", facts) as writer:
        for baseline in baselines(study, data, victim):
            count = len(baseline.images)
            targets = np.full(count, baseline.target, dtype=np.int64)
            scores = scorer.score(baseline.images, targets)
            if scored is not None:
                scored.add_baseline(baseline.kind, baseline.images, targets, scores)
            writer.write(
                {
                    "kind": [baseline.kind] * count,
                    "session_id": [None] * count,
                    "target": targets.astype(np.int16),
                    "query": np.full(count, baseline.query, dtype=np.int64),
                    "last": [False] * count,
                    **_columns(scores),
                }
            )
        with Bar("scoring leakage", snapshots.count_rows(), "reconstructions") as bar:
            _score_snapshots(writer, snapshots, scorer, scored, bar)
    if scored is not None:
        scored.write(run, study, facts)


def _score_snapshots(
    writer: TableWriter, snapshots: ds.Dataset, scorer: LeakageScorer, scored: ScoredSets | None, bar: Bar
) -> None:
    done = 0
    for batch in snapshots.to_batches(batch_size=CHUNK_ROWS):
        if not batch.num_rows:
            continue
        guesses = np.stack([decode(png) for png in batch["guess_png"].to_pylist()])
        targets = batch["target"].to_numpy().astype(np.int64)
        scores = scorer.score(guesses, targets)
        last = np.flatnonzero(batch["last"].to_pylist())
        if scored is not None and len(last):
            sessions = batch["session_id"].take(pa.array(last)).to_pylist()
            scored.add_sessions(sessions, guesses[last], targets[last], scores.rows(last))
        writer.write(
            {
                "kind": ["attack"] * len(targets),
                "session_id": batch["session_id"],
                "target": batch["target"],
                "query": batch["query"],
                "last": batch["last"],
                **_columns(scores),
            }
        )
        done += batch.num_rows
        bar.update(done)


def _columns(scores: Scores) -> dict[str, npt.NDArray[np.generic]]:
    return {
        "evaluator_confidence": scores.evaluator_confidence.astype(np.float32),
        "evaluator_hit": scores.evaluator_hit,
        "evaluator_rank": scores.evaluator_rank.astype(np.int16),
        "feature_distance": scores.feature_distance.astype(np.float32),
        "nearest_class": scores.nearest_class.astype(np.int16),
        "ssim_nearest": scores.ssim_nearest.astype(np.float32),
        "psnr_nearest_db": scores.psnr_nearest_db.astype(np.float32),
    }


def decode(png: bytes) -> npt.NDArray[np.float32]:
    """Return the image in a ``guess_png`` cell, shape (H, W) or (H, W, 3), float32 in [0, 1]."""
    pixels: npt.NDArray[np.uint8] = np.asarray(cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_UNCHANGED))
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]
    return np.asarray(pixels, dtype=np.float32) / np.float32(255)
