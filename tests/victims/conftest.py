"""Small data sets of separable classes, and a cache folder for the test session."""

import numpy as np
import pytest

from mifsim.data.assembling import assemble, split_by_class
from mifsim.data.base import ArrayPool

SHARES = {"private": 0.5, "auxiliary": 0.1, "users": 0.3, "evaluator": 0.1}


def blobs(shape, per_class=60, seed=0):
    """Return a data set of noise images, each with a bright shape: a square, an upright bar or a lying bar."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], per_class)
    pixels = rng.integers(0, 60, (len(labels), *shape), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        height, width = [(4, 4), (8, 2), (2, 8)][label]
        row, column = rng.integers(1, shape[0] - height), rng.integers(1, shape[1] - width)
        image[row : row + height, column : column + width] += 180
    return assemble(
        name="blobs",
        shape=shape,
        class_names=("square", "upright", "lying"),
        pool=ArrayPool(pixels, labels),
        subsets=split_by_class(labels, SHARES, 0),
        content=f"{shape} {per_class} {seed}",
        note="made up",
    )


collect_ignore = ["predictors.py"]  # registers predictors when it is imported


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache_folder(cache_folder, monkeypatch):
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(cache_folder))


@pytest.fixture(scope="session")
def grey():
    return blobs((12, 14))


@pytest.fixture(scope="session")
def colour():
    return blobs((16, 16, 3))


@pytest.fixture(scope="session")
def keras():
    from mifsim.networks import import_tensorflow

    return import_tensorflow().keras
