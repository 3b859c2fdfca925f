"""What is measured of an existing model before a run: its accuracy, and whether it gives the same answer twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.cache import digest
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


def answers_digest(engine: Engine, data: DataSet, identity: Sequence[Any]) -> tuple[str, str]:
    """Identify a model whose content cannot be read.

    Parameters
    ----------
    engine : Engine
        After `check_engine`, which tests whether it is deterministic.
    data : DataSet
    identity : sequence of object
        What else identifies the model, such as its address.

    Returns
    -------
    fingerprint : str
        A digest of `identity` and the answers to `PROBES` images; only of the labels of these answers if the model is
        not deterministic.
    identified_by : str
        What this digest is of, for ``run.json``.
    """
    images = probes(data.subset("users"))
    answers = engine.ask_twice(images)
    if engine.deterministic:
        return digest(*identity, answers.tobytes()), f"its name and its answers to {len(images)} images"
    labels = answers.argmax(axis=1)
    return (
        digest(*identity, labels.tolist()),
        f"its name and its labels of {len(images)} images; another model that gives the same labels is not noticed",
    )


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
