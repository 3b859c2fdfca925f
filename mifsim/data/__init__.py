"""Image sets, each split into one subset for the victim, the attackers, the users and the evaluator."""

from __future__ import annotations

from importlib import import_module

from mifsim.data.base import SUBSETS, ArrayPool, DataSet, ImagePool, Subset, SubsetPool
from mifsim.data.config import DATASETS, DataConfig, Source, source_of


def load_data(config: DataConfig) -> DataSet:
    """Load the data set that `config` names.

    Later calls are fast: prepared pixels are memory-mapped from the cache folder, and the images of CelebA are read one
    by one on demand.

    Raises
    ------
    DataError
        If files are missing, truncated or otherwise invalid, or if there are too few images for the split.

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
