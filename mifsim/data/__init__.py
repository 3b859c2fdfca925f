"""Image sets, each split into what the victim, the attackers, the users and the evaluator may see."""

from __future__ import annotations

from importlib import import_module

from mifsim.data.base import SUBSETS, ArrayPool, DataSet, ImagePool, Subset, SubsetPool
from mifsim.data.config import DATASETS, DataConfig, Source, source_of


def load_data(config: DataConfig) -> DataSet:
    """Load the data set that `config` names.

    Cheap after the first time: prepared pixels are memory-mapped from the cache folder, and CelebA's images
    are read one by one when asked for.

    Raises
    ------
    DataError
        If files are missing, truncated or not what they should be, or too few images are there for the split.

    Examples
    --------
    >>> data = load_data(DataConfig(set="mnist-5k"))
    >>> data.shape, len(data.subset("private"))
    ((28, 28), 2500)
    """
    load = source_of(config.set).load
    if isinstance(load, str):
        module, function = load.split(":")
        load = getattr(import_module(module), function)
    data: DataSet = load(config)
    return data


__all__ = [
    "DATASETS",
    "SUBSETS",
    "ArrayPool",
    "DataConfig",
    "DataSet",
    "ImagePool",
    "Source",
    "Subset",
    "SubsetPool",
    "load_data",
]
