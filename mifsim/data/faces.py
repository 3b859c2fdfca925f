"""Rendered faces with CelebA's four classes (see `mifsim.data.face_rendering`); they are not photographs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mifsim.cache import digest
from mifsim.data.assembling import assemble, split_by_class
from mifsim.data.base import DataSet, Subset
from mifsim.data.celeba import CLASSES, SIDE
from mifsim.data.config import DataConfig
from mifsim.data.prepared import Raw, prepare

SHARES: dict[Subset, float] = {"private": 0.5, "auxiliary": 0.1, "users": 0.3, "evaluator": 0.1}
"""Share of each class in each subset."""
IMAGES_PER_CLASS = 1000
"""Default number of rendered faces per class."""
SEED = 2015
"""Seed of all faces: face number i of a class does not depend on the number of faces."""
_PROGRAMS = ("face_traits", "face_rendering", "pencil")
"""Modules of which the pixels of a face depend; their source identifies the faces in the cache."""


def load(config: DataConfig) -> DataSet:
    """Render the faces, or read them from the cache, and split them class by class by `SHARES`."""
    count = config.images_per_class or IMAGES_PER_CLASS
    labels = np.repeat(np.arange(len(CLASSES)), count).astype(np.int64)
    programs = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in _PROGRAMS]
    prepared = prepare(
        "faces", digest(*programs, SEED, count), lambda: Raw(labels, (SIDE, SIDE, 3), _faces(labels, count))
    )
    return assemble(
        name="faces (rendered)",
        shape=(SIDE, SIDE, 3),
        class_names=CLASSES,
        pool=prepared.pool,
        subsets=split_by_class(labels, SHARES, config.split_seed),
        content=prepared.content,
        note=(
            f"Rendered faces, {count} per class, not photographs: a stand-in for CelebA. Each class is split at "
            "random: private 50%, auxiliary 10%, users 30%, evaluator 10%."
        ),
        at_most_per_class=config.at_most_per_class,
        seed=config.split_seed,
    )


def _faces(labels: npt.NDArray[np.int64], count: int) -> Iterator[npt.NDArray[np.uint8]]:
    from mifsim.data.face_rendering import render

    for number, label in enumerate(labels):
        seeds = np.random.SeedSequence(SEED, spawn_key=(int(label), number % count))
        yield render(int(label), np.random.default_rng(seeds))
