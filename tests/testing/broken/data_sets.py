"""A sound data set, and data sets with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from mifsim.clients import Image
from mifsim.data import ArrayPool, DataSet
from mifsim.data.assembling import assemble, split_by_class


def sound_data(
    pool_class: type[ArrayPool] = ArrayPool,
    change: Callable[[dict[Any, Any]], object] = lambda subsets: None,
    content: str = "noise",
    shape: tuple[int, ...] = (9, 8),
) -> DataSet:
    """Return a sound data set: two classes of 20 images of noise, unless arguments change it."""
    labels = np.repeat([0, 1], 20)
    pixels = np.random.default_rng(0).integers(0, 256, (40, *shape), np.uint8)
    subsets = split_by_class(labels, {"private": 0.5, "auxiliary": 0.1, "users": 0.3, "evaluator": 0.1}, 0)
    change(subsets)
    return assemble(
        name="noise",
        shape=shape,
        class_names=("even", "odd"),
        pool=pool_class(pixels, labels),
        subsets=subsets,
        content=content,
        note="Uniform noise.",
    )


class UnscaledPool(ArrayPool):
    """Returns pixel values from 0 to 255."""

    def image(self, index: int) -> Image:
        return self.pixels[index].astype(np.float32)

    def images(self, indices: Any) -> Image:
        return self.pixels[np.asarray(indices, np.int64)].astype(np.float32)


class SortingPool(ArrayPool):
    """Returns several images in the order of their indices, not in the requested order."""

    def images(self, indices: Any) -> Image:
        return super().images(np.sort(np.asarray(indices, np.int64)))


class NoisyPool(ArrayPool):
    """Adds new noise at every read."""

    def images(self, indices: Any) -> Image:
        images = super().images(indices)
        return np.clip(images + np.random.default_rng().uniform(0, 0.1, images.shape).astype(np.float32), 0, 1)

    def image(self, index: int) -> Image:
        image: Image = self.images([index])[0]
        return image


class WritablePool(ArrayPool):
    """Returns views of its images that can be written to."""

    def image(self, index: int) -> Image:
        floats = self._floats
        assert floats is not None
        floats.setflags(write=True)
        image: Image = floats[index]
        return image


def pixel_values_up_to_255() -> DataSet:
    return sound_data(UnscaledPool)


def batches_in_another_order() -> DataSet:
    return sound_data(SortingPool)


def writable_images() -> DataSet:
    return sound_data(WritablePool)


def new_pixels_at_each_read() -> DataSet:
    return sound_data(NoisyPool)


def one_explicit_channel() -> DataSet:
    return sound_data(shape=(9, 8, 1))


def no_note() -> DataSet:
    return replace(sound_data(), note="")


def overlapping_subsets() -> DataSet:
    return sound_data(change=lambda subsets: subsets.update(users=np.append(subsets["users"], subsets["private"][0])))


def subset_without_a_class() -> DataSet:
    return sound_data(change=lambda subsets: subsets.update(users=subsets["users"][subsets["users"] < 20]))


def missing_subset() -> DataSet:
    return sound_data(change=lambda subsets: subsets.pop("evaluator"))


def wrong_shape() -> DataSet:
    return replace(sound_data(), shape=(8, 9))


_loads = count()


def new_fingerprint_at_each_load() -> DataSet:
    return sound_data(content=str(next(_loads)))
