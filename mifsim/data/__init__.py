"""Image sets, each split into one subset for the victim, the attackers, the users and the evaluator."""

from __future__ import annotations

import logging
from importlib import import_module

from mifsim.data.base import SUBSETS, ArrayPool, DataSet, ImagePool, Subset, SubsetPool
from mifsim.data.config import DATASETS, DataConfig, Source, source_of


def load_data(config: DataConfig, *, again: bool = False) -> DataSet:
    """Load the data set that `config` names.

    Later calls are fast: prepared pixels are memory-mapped from the cache folder, and the images of CelebA are read one
    by one on demand.

    Parameters
    ----------
    config : DataConfig
    again : bool
        Whether the run loads the data elsewhere, too. The warnings are then logged there alone.

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
    logger = logging.getLogger(__name__)  # of all modules of this package
    level = logger.level
    if again:
        logger.setLevel(logging.ERROR)
    try:
        data: DataSet = load(config)
    finally:
        logger.setLevel(level)
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
