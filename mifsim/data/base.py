"""Data sets: four subsets that share no image, each a pool of labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from mifsim.cache import digest
from mifsim.errors import DataError

Subset = Literal["private", "auxiliary", "users", "evaluator"]
SUBSETS: tuple[Subset, ...] = ("private", "auxiliary", "users", "evaluator")


class ImagePool(Protocol):
    """Labelled images that can be drawn by index; reading may be lazy."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The class of each image, shape (n,)."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> npt.NDArray[np.float32]:
        """Return one image, (H, W) or (H, W, 3), float32 in [0, 1]."""

    def images(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return several at once, shape (n, H, W) or (n, H, W, 3)."""


SMALL_BYTES = 16 * 2**20
"""Up to this size of its 8-bit pixels, a pool is also stored as floats, which take four times as much memory."""


@dataclass(frozen=True)
class ArrayPool:
    """Images held as one uint8 array (which may be memory-mapped).

    Attributes
    ----------
    pixels : ndarray of uint8, shape (n, H, W) or (n, H, W, 3)
    labels : ndarray of int64, shape (n,)
    """

    pixels: npt.NDArray[np.uint8] = field(repr=False)
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
        """All images as floats, or None for a large pool; users draw the same images repeatedly."""
        if self.pixels.nbytes > SMALL_BYTES:
            return None
        floats: npt.NDArray[np.float32] = np.divide(self.pixels, np.float32(255), dtype=np.float32)
        floats.setflags(write=False)
        return floats

    def images(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return several at once."""
        chosen = self.pixels[np.asarray(indices, np.int64)]
        images: npt.NDArray[np.float32] = chosen.astype(np.float32) / np.float32(255)
        return images


@dataclass(frozen=True)
class SubsetPool:
    """A view of some of another pool's images, such as one subset of a split.

    Attributes
    ----------
    pool : ImagePool
    indices : ndarray of int64, shape (n,)
        Which of the pool's images, in which order.
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
        """Return several at once."""
        return self.pool.images(self.indices[np.asarray(indices, np.int64)])


@dataclass(frozen=True)
class DataSet:
    """A data set, split by role.

    Attributes
    ----------
    name : str
    shape : tuple of int
        Of one image: (H, W) or (H, W, 3).
    class_names : tuple of str
    subsets : mapping from subset to pool
        ``private``: the victim's training images. ``auxiliary``: what attackers may hold. ``users``: what
        honest users send, never trained on. ``evaluator``: what the evaluator is trained on besides the
        private subset. No image is in two subsets.
    fingerprint : str
        A digest of the content and the split; equal digests mean equal images in equal subsets.
    note : str
        How it was split, and whether it is rendered rather than photographed.
    """

    name: str
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    subsets: Mapping[Subset, ImagePool]
    fingerprint: str
    note: str

    def subset(self, name: Subset) -> ImagePool:
        """Return one subset."""
        return self.subsets[name]


def split_by_class(
    labels: npt.NDArray[np.int64], shares: Mapping[Subset, float], seed: int
) -> dict[Subset, npt.NDArray[np.int64]]:
    """Split indices into subsets, class by class, so that each holds every class in the same proportion.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
    shares : mapping
        Subset to its share of each class; the shares add up to 1.
    seed : int

    Returns
    -------
    dict
        Subset to sorted indices.
    """
    if not np.isclose(sum(shares.values()), 1.0):
        raise ValueError(f"shares must add up to 1, got {dict(shares)}")
    rng = np.random.default_rng(seed)
    chosen: dict[Subset, list[npt.NDArray[np.int64]]] = {subset: [] for subset in shares}
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < len(shares):
            raise DataError(
                f"class {label} has {len(members)} images; a split into {len(shares)} subsets needs at least as many"
            )
        ends = np.round(np.cumsum(list(shares.values())) * len(members)).astype(int)
        for subset, start, end in zip(shares, [0, *ends[:-1]], ends, strict=True):
            chosen[subset].append(members[start:end])
    return {subset: np.sort(np.concatenate(pieces)) for subset, pieces in chosen.items()}


def reduce_classes(
    labels: npt.NDArray[np.int64],
    subsets: Mapping[Subset, npt.NDArray[np.int64]],
    images_per_class: int,
    seed: int,
    class_names: tuple[str, ...],
) -> dict[Subset, npt.NDArray[np.int64]]:
    """Keep exactly `images_per_class` images of each class over all subsets (paper, Section 4.5: 800 per label).

    Each subset keeps its share of the class, to within one image.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Labels of the whole set.
    subsets : mapping
        Subset to its indices.
    images_per_class : int
    seed : int
    class_names : tuple of str

    Returns
    -------
    dict
        Subset to sorted indices.

    Raises
    ------
    DataError
        If a class has fewer images, or a subset would be left without a class.
    """
    rng = np.random.default_rng(seed)
    kept: dict[Subset, list[npt.NDArray[np.int64]]] = {subset: [] for subset in subsets}
    for label, name in enumerate(class_names):
        members = {subset: indices[labels[indices] == label] for subset, indices in subsets.items()}
        total = sum(map(len, members.values()))
        if total < images_per_class:
            raise DataError(
                f"images_per_class = {images_per_class}, but class {name!r} has {total} images; "
                f"accepted: at most {total}"
            )
        # Rounding the running totals, not each subset, makes them add up exactly.
        running = np.cumsum([len(indices) for indices in members.values()])
        ends = np.round(running * (images_per_class / total)).astype(int)
        for (subset, indices), size in zip(members.items(), np.diff(ends, prepend=0), strict=True):
            if size == 0:
                raise DataError(
                    f"images_per_class = {images_per_class} leaves the {subset} subset without an image of "
                    f"class {name!r}; accepted: a larger number, up to {total}"
                )
            kept[subset].append(rng.permutation(indices)[:size])
    return {subset: np.sort(np.concatenate(pieces)) for subset, pieces in kept.items()}


def assemble(
    *,
    name: str,
    shape: tuple[int, ...],
    class_names: tuple[str, ...],
    pool: ImagePool,
    subsets: Mapping[Subset, npt.NDArray[np.int64]],
    content: str,
    note: str,
    images_per_class: int | None = None,
    seed: int = 0,
) -> DataSet:
    """Make a data set from one pool and the indices of its subsets, reduced if `images_per_class` is given.

    `content` is a digest of the pool's images and labels; with the indices it gives the fingerprint.
    """
    if images_per_class is not None:
        subsets = reduce_classes(pool.labels, subsets, images_per_class, seed, class_names)
        note = f"{note} Reduced to {images_per_class} images a class over all subsets."
    split = {subset: digest(indices.tobytes()) for subset, indices in subsets.items()}
    return DataSet(
        name=name,
        shape=shape,
        class_names=class_names,
        subsets={subset: SubsetPool(pool, indices) for subset, indices in subsets.items()},
        fingerprint=digest(content, list(class_names), split),
        note=note,
    )
