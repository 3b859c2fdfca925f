"""Conformance suite of data sets; a test class inherits it and supplies the fixture `data`."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from mifsim.data import SUBSETS, DataSet, ImagePool, Subset

_BATCH_SIZE = 256
"""Number of images read at a time, because a data set may be larger than memory."""


class DataSetConformance:
    """Conformance suite of data sets (see `mifsim.data.base`); supply the fixture `data`, preferably a small one.

    The tests read all images. The optional fixture `again` loads the same data set once more; the suite then tests that
    both are equal.
    """

    images_differ: ClassVar[bool] = True
    """Whether all images of the source are different; False skips the test that subsets share no image."""

    @pytest.fixture
    def data(self) -> DataSet:
        """Return the data set under test."""
        raise NotImplementedError("override the fixture `data`: return the data set under test")

    @pytest.fixture
    def again(self, data: DataSet) -> DataSet | None:
        """Return the same data set, loaded once more; by default None."""
        return None

    @pytest.fixture(params=SUBSETS)
    def pool(self, request: pytest.FixtureRequest, data: DataSet) -> ImagePool:
        """Return each subset of the data set in turn."""
        subset: Subset = request.param
        return data.subset(subset)

    def test_has_the_four_subsets(self, data: DataSet) -> None:
        assert set(data.subsets) == set(SUBSETS)

    def test_describes_itself(self, data: DataSet) -> None:
        assert data.name
        assert data.note
        assert data.fingerprint
        assert len(data.class_names) >= 2
        assert len(set(data.class_names)) == len(data.class_names)
        assert all(data.class_names)

    def test_images_have_a_height_a_width_and_one_or_three_channels(self, data: DataSet) -> None:
        assert len(data.shape) in (2, 3)
        assert all(side >= 1 for side in data.shape)
        assert data.shape[2:] in ((), (3,))

    def test_every_image_has_a_label_and_every_class_an_image(self, data: DataSet, pool: ImagePool) -> None:
        assert pool.labels.dtype == np.int64
        assert pool.labels.shape == (len(pool),)
        assert set(pool.labels.tolist()) == set(range(len(data.class_names)))

    def test_images_are_valid(self, data: DataSet, pool: ImagePool) -> None:
        for images in _batches(pool):
            assert images.dtype == np.float32
            assert images.shape[1:] == data.shape
            assert np.isfinite(images).all()
            assert images.min() >= 0
            assert images.max() <= 1

    def test_one_image_is_the_same_as_among_several(self, data: DataSet, pool: ImagePool) -> None:
        chosen = [len(pool) - 1, 0, len(pool) // 2, 0]
        several = pool.images(chosen)
        assert several.shape == (len(chosen), *data.shape)
        for row, index in zip(several, chosen, strict=True):
            image = pool.image(index)
            assert image.dtype == np.float32
            np.testing.assert_array_equal(image, row)

    def test_an_empty_selection_is_an_empty_array(self, data: DataSet, pool: ImagePool) -> None:
        empty = pool.images([])
        assert empty.shape == (0, *data.shape)
        assert empty.dtype == np.float32

    def test_reading_twice_gives_the_same(self, pool: ImagePool) -> None:
        np.testing.assert_array_equal(pool.image(0), pool.image(0))
        np.testing.assert_array_equal(pool.labels, pool.labels)

    def test_writing_to_an_image_does_not_change_the_pool(self, pool: ImagePool) -> None:
        before = pool.image(0).copy()
        for image in (pool.image(0), pool.images([0])[0]):
            if image.flags.writeable:
                image[...] = 1 - before
        np.testing.assert_array_equal(pool.image(0), before)
        np.testing.assert_array_equal(pool.images([0])[0], before)

    def test_subsets_share_no_image(self, data: DataSet) -> None:
        if not self.images_differ:
            pytest.skip("images_differ is False: the source contains some images more than once")
        seen = {subset: _digests(data.subset(subset)) for subset in SUBSETS}
        for one, other in itertools.combinations(SUBSETS, 2):
            assert not seen[one] & seen[other], f"the {one} and {other} subsets share images"

    def test_loading_again_gives_the_same(self, data: DataSet, again: DataSet | None) -> None:
        if again is None:
            pytest.skip("the test class does not override the fixture `again`")
        assert again.fingerprint == data.fingerprint
        assert (again.name, again.shape, again.class_names) == (data.name, data.shape, data.class_names)
        for subset in SUBSETS:
            np.testing.assert_array_equal(again.subset(subset).labels, data.subset(subset).labels)
            for one, other in zip(_batches(data.subset(subset)), _batches(again.subset(subset)), strict=True):
                np.testing.assert_array_equal(one, other)


def _batches(pool: ImagePool) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(pool), _BATCH_SIZE):
        yield pool.images(np.arange(start, min(start + _BATCH_SIZE, len(pool))))


def _digests(pool: ImagePool) -> set[bytes]:
    return {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for images in _batches(pool) for image in images}
