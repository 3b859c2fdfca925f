"""Data sets: four disjoint subsets, each of which is a pool of labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Subset = Literal["private", "auxiliary", "users", "evaluator"]
SUBSETS: tuple[Subset, ...] = ("private", "auxiliary", "users", "evaluator")
"""All subsets; see `DataSet.subsets`."""


class ImagePool(Protocol):
    """Labelled images that can be read by index, possibly on demand."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The class of each image, shape (n,)."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> npt.NDArray[np.float32]:
        """Return one image, (H, W) or (H, W, 3), float32 in [0, 1]."""

    def images(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return several images, shape (n, H, W) or (n, H, W, 3), float32 in [0, 1]."""


SMALL_BYTES = 16 * 2**20
"""Size of the 8-bit pixels, in bytes, up to which a pool is also stored as floats (four times as much memory)."""


@dataclass(frozen=True)
class ArrayPool:
    """Images stored as one array, which may be memory-mapped.

    Attributes
    ----------
    pixels : ndarray, shape (n, H, W) or (n, H, W, 3)
        The images: uint8, 0 to 255, or float32 in [0, 1], which keep their bits.
    labels : ndarray of int64, shape (n,)
        The class of each image.
    """

    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32] = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> npt.NDArray[np.float32]:
        """Return one image, float32 in [0, 1]; do not write to it."""
        if self._floats is not None:
            stored: npt.NDArray[np.float32] = self._floats[index]
            return stored
        image: npt.NDArray[np.float32] = np.divide(self.pixels[index], np.float32(255), dtype=np.float32)
        return image

    @cached_property
    def _floats(self) -> npt.NDArray[np.float32] | None:
        """All images as floats, because users draw the same images repeatedly; None for a large pool."""
        if self.pixels.dtype == np.float32:
            stored: npt.NDArray[np.float32] = self.pixels  # type: ignore[assignment]
            return stored
        if self.pixels.nbytes > SMALL_BYTES:
            return None
        floats: npt.NDArray[np.float32] = np.divide(self.pixels, np.float32(255), dtype=np.float32)
        floats.setflags(write=False)
        return floats

    def images(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return several images, float32 in [0, 1]."""
        chosen = self.pixels[np.asarray(indices, np.int64)]
        if chosen.dtype == np.float32:
            return np.asarray(chosen, np.float32)
        images: npt.NDArray[np.float32] = chosen.astype(np.float32) / np.float32(255)
        return images


@dataclass(frozen=True)
class SubsetPool:
    """A view of some of another pool's images, such as one subset of a split.

    Attributes
    ----------
    pool : ImagePool
        The other pool.
    indices : ndarray of int64, shape (n,)
        Indices of the images in the other pool, in the order of the view.
    """

    pool: ImagePool
    indices: npt.NDArray[np.int64] = field(repr=False)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """The class of each image, shape (n,)."""
        return self.pool.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> npt.NDArray[np.float32]:
        """Return one image, float32 in [0, 1]."""
        return self.pool.image(int(self.indices[index]))

    def images(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return several images, float32 in [0, 1]."""
        return self.pool.images(self.indices[np.asarray(indices, np.int64)])


def stored_floats(pool: object) -> tuple[npt.NDArray[np.float32], list[int]] | None:
    """Return the array that contains a pool's images as floats, and the position of each in it.

    Returns
    -------
    (ndarray of float32, list of int) or None
        None if the pool does not store its images so.
    """
    if isinstance(pool, ArrayPool):
        return None if pool._floats is None else (pool._floats, list(range(len(pool))))
    if isinstance(pool, SubsetPool) and (stored := stored_floats(pool.pool)) is not None:
        floats, places = stored
        return floats, [places[index] for index in pool.indices.tolist()]
    return None


@dataclass(frozen=True)
class DataSet:
    """A data set, split into subsets by role.

    Attributes
    ----------
    name : str
        Name of the data set in reports.
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    class_names : tuple of str
        Names of the classes, in the order of their labels.
    subsets : mapping of str to ImagePool
        ``private``: the victim's training images. ``auxiliary``: images available to attackers. ``users``: images that
        honest users send; no model is trained on them. ``evaluator``: images on which the evaluator is trained, in
        addition to the private subset. The subsets are disjoint.
    fingerprint : str
        A digest of the content and the split; equal digests mean equal images in equal subsets.
    note : str
        A description of the split, and of the images if they are rendered.
    facts : mapping of str to object
        Further facts for ``run.json``, such as how the files of a folder were preprocessed.
    """

    name: str
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    subsets: Mapping[Subset, ImagePool]
    fingerprint: str
    note: str
    facts: Mapping[str, object] = field(default_factory=dict)

    def subset(self, name: Subset) -> ImagePool:
        """Return one subset."""
        return self.subsets[name]
