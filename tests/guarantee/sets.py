"""A plug-in with two data sets: MNIST with one half of the users' images each, class by class."""

from dataclasses import replace

import numpy as np

from mifsim.cache import digest
from mifsim.data.base import DataSet, SubsetPool
from mifsim.data.config import DataConfig, Source
from mifsim.data.mnist import load
from mifsim.plugins import register


def half(config: DataConfig, number: int) -> DataSet:
    """Return MNIST with every second image of each class for users; all else is the same."""
    data = load(config.model_copy(update={"set": "mnist"}))
    users = data.subset("users")
    members = [np.flatnonzero(users.labels == label)[number::2] for label in range(len(data.class_names))]
    pool = SubsetPool(users, np.sort(np.concatenate(members)))
    return replace(
        data,
        name=f"mnist, half {number + 1} of the users' images",
        subsets={**data.subsets, "users": pool},
        fingerprint=digest(data.fingerprint, "half", number),
    )


register("datasets", "mnist-first-half")(Source(lambda config: half(config, 0), reads=frozenset({"folder"})))
register("datasets", "mnist-second-half")(Source(lambda config: half(config, 1), reads=frozenset({"folder"})))
