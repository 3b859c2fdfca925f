"""Data sets: four disjoint subsets, each of which is a pool of labelled images."""

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


def split_by_class(
    labels: npt.NDArray[np.int64], shares: Mapping[Subset, float], seed: int
) -> dict[Subset, npt.NDArray[np.int64]]:
    """Split indices into subsets, class by class, so that every subset has the classes in the same proportion.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        The class of each image.
    shares : mapping of str to float
        The share of each class that a subset receives; the shares add up to 1.
    seed : int
        Seed of the split.

    Returns
    -------
    dict of str to ndarray
        The sorted indices of each subset.

    Raises
    ------
    DataError
        If a class has fewer images than there are subsets.
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
        The class of each image of the whole set.
    subsets : mapping of str to ndarray
        The indices of each subset.
    images_per_class : int
        Number of images to keep of each class, over all subsets.
    seed : int
        Seed of the choice.
    class_names : tuple of str
        Names of the classes, for messages.

    Returns
    -------
    dict of str to ndarray
        The sorted indices of each subset.

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
        # Running totals are rounded, not the sizes of the subsets, so that the sizes add up exactly.
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
    facts: Mapping[str, object] | None = None,
) -> DataSet:
    """Make a data set from one pool and the indices of its subsets.

    Parameters
    ----------
    name, shape, class_names
        See `DataSet`.
    pool : ImagePool
        All images.
    subsets : mapping of str to ndarray
        The indices of each subset in the pool.
    content : str
        A digest of the pool's images and labels. The fingerprint is computed from it and the indices.
    note : str
        See `DataSet`.
    images_per_class : int or None
        If not None, the subsets are reduced; see `reduce_classes`.
    seed : int
        Seed of the reduction.
    facts : mapping of str to object, optional
        See `DataSet`.

    Returns
    -------
    DataSet
        The data set.
    """
    if images_per_class is not None:
        subsets = reduce_classes(pool.labels, subsets, images_per_class, seed, class_names)
        note = f"{note} Reduced to {images_per_class} images per class over all subsets."
    split = {subset: digest(indices.tobytes()) for subset, indices in subsets.items()}
    return DataSet(
        name=name,
        shape=shape,
        class_names=class_names,
        subsets={subset: SubsetPool(pool, indices) for subset, indices in subsets.items()},
        fingerprint=digest(content, list(class_names), split),
        note=note,
        facts=facts or {},
    )
