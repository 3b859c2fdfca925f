"""What is measured of an existing model before a run: its accuracy, and whether it gives the same answer twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.data.base import DataSet, ImagePool
from mifsim.victims.engine import Engine

PROBES = 32
"""Number of the users' images by which a model is asked twice."""
CHUNK = 256


def check_engine(engine: Engine, data: DataSet) -> dict[str, Any]:
    """Return the facts for ``run.json`` that need the model's answers.

    Parameters
    ----------
    engine : Engine
    data : DataSet
        The study's data, of which the users' subset is asked.
    """
    users = data.subset("users")
    engine.ask_twice(probes(users))
    facts: dict[str, Any] = {
        "test_accuracy": accuracy(engine, users),
        "test_images": len(users),
        **engine.facts(),
        "deterministic": engine.deterministic,
    }
    if not engine.deterministic:
        facts["largest_difference"] = engine.largest_difference
    return facts


def probes(pool: ImagePool) -> npt.NDArray[np.float32]:
    """Return `PROBES` images of a pool, or all if there are fewer; always the same ones, spread over the pool."""
    return pool.images(np.unique(np.linspace(0, len(pool) - 1, min(PROBES, len(pool))).astype(np.int64)))


def accuracy(engine: Engine, pool: ImagePool) -> float:
    """Return the share of a pool's images that a model classifies correctly, 0 to 1."""
    right = 0
    for start in range(0, len(pool), CHUNK):
        indices = np.arange(start, min(start + CHUNK, len(pool)))
        confidence, _ = engine.predict(pool.images(indices), np.full(len(indices), -1, np.int32))
        right += int(np.sum(confidence.argmax(axis=1) == pool.labels[indices]))
    return right / len(pool)
