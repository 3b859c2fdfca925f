"""Scores the snapshots of a run and the zero-query baselines, and writes the table ``leakage``."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

from mifsim.data.base import DataSet
from mifsim.leakage import LeakageScorer, Scores, prior_images, random_images
from mifsim.progress import Bar
from mifsim.server.client_specs import client_rng
from mifsim.study import Study
from mifsim.tables.records import TableWriter, open_table
from mifsim.tables.storage import Folder
from mifsim.victims import PreparedEvaluator

CHUNK_ROWS = 512


def score_run(run: Folder, study: Study, data: DataSet, evaluator: PreparedEvaluator, facts: Mapping[str, str]) -> None:
    """Score ``snapshots/`` and write ``leakage/scores.parquet``, in chunks of `CHUNK_ROWS` rows.

    Parameters
    ----------
    run : Path or RemotePath
    study : Study
    data : DataSet
    evaluator : PreparedEvaluator
    facts : mapping of str to str
        Metadata of the file.
    """
    snapshots = open_table(run, "snapshots")
    private = data.subset("private")
    scorer = LeakageScorer(evaluator.load(), private, private.labels)
    total = snapshots.count_rows()
    with (
        TableWriter(run / "leakage" / "scores.parquet", "leakage", facts) as writer,
        Bar("scoring leakage", total, "reconstructions") as bar,
    ):
        _score_baselines(writer, study, data, scorer)
        done = 0
        for batch in snapshots.to_batches(batch_size=CHUNK_ROWS):
            if not batch.num_rows:
                continue
            guesses = np.stack([decode(png) for png in batch["guess_png"].to_pylist()])
            targets = batch["target"].to_numpy().astype(np.int64)
            writer.write(
                {
                    "kind": ["attack"] * len(targets),
                    "session_id": batch["session_id"],
                    "target": batch["target"],
                    "query": batch["query"],
                    "last": batch["last"],
                    **_columns(scorer.score(guesses, targets)),
                }
            )
            done += batch.num_rows
            bar.update(done)


def _score_baselines(writer: TableWriter, study: Study, data: DataSet, scorer: LeakageScorer) -> None:
    """Score the zero-query baselines: random images, and auxiliary images."""
    count = study.leakage.baseline_images
    rng = client_rng(study.seed, "leakage floors")  # the text determines the random numbers: do not change it
    for kind, images in (
        ("random", random_images(data.shape, count, rng)),
        ("prior", prior_images(data.subset("auxiliary"), count, rng)),
    ):
        for target in range(len(data.class_names)):
            targets = np.full(count, target, dtype=np.int64)
            writer.write(
                {
                    "kind": [kind] * count,
                    "session_id": [None] * count,
                    "target": targets.astype(np.int16),
                    "query": np.zeros(count, dtype=np.int64),
                    "last": [False] * count,
                    **_columns(scorer.score(images, targets)),
                }
            )


def _columns(scores: Scores) -> dict[str, npt.NDArray[np.generic]]:
    return {
        "evaluator_confidence": scores.evaluator_confidence.astype(np.float32),
        "evaluator_hit": scores.evaluator_hit,
        "feature_distance": scores.feature_distance.astype(np.float32),
        "ssim_nearest": scores.ssim_nearest.astype(np.float32),
        "psnr_nearest_db": scores.psnr_nearest_db.astype(np.float32),
    }


def decode(png: bytes) -> npt.NDArray[np.float32]:
    """Return the image in a ``guess_png`` cell, shape (H, W) or (H, W, 3), float32 in [0, 1]."""
    pixels: npt.NDArray[np.uint8] = np.asarray(cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_UNCHANGED))
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]
    return np.asarray(pixels, dtype=np.float32) / np.float32(255)
