"""The contract of data sets; a test module calls it with a small set."""

import itertools

import numpy as np

from mifsim.data import SUBSETS


def check_data_set(data):
    assert set(data.subsets) == set(SUBSETS)
    for subset in SUBSETS:
        pool = data.subset(subset)
        assert len(pool) == len(pool.labels)
        assert set(pool.labels.tolist()) == set(range(len(data.class_names))), f"{subset} lacks a class"
        few = pool.images([0, len(pool) - 1])
        assert few.shape == (2, *data.shape)
        assert few.dtype == np.float32
        assert few.min() >= 0
        assert few.max() <= 1
        np.testing.assert_array_equal(few[0], pool.image(0))
        np.testing.assert_array_equal(few[1], pool.image(len(pool) - 1))
        assert pool.images([]).shape == (0, *data.shape)
    assert data.note


def check_subsets_share_no_image(data):
    """Check a set whose images all differ."""
    seen = {subset: {image.tobytes() for image in _all(data.subset(subset))} for subset in SUBSETS}
    for one, other in itertools.combinations(SUBSETS, 2):
        assert not seen[one] & seen[other]


def _all(pool):
    return pool.images(np.arange(len(pool)))
