"""Division of a set's images into its subsets, class by class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mifsim.cache import digest
from mifsim.data.base import DataSet, ImagePool, Subset, SubsetPool
from mifsim.errors import DataError


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
    *,
    keep_smaller: bool = False,
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
    keep_smaller : bool
        Whether a class with fewer images keeps all of them; otherwise it is an error.

    Returns
    -------
    dict of str to ndarray
        The sorted indices of each subset.

    Raises
    ------
    DataError
        If a class has fewer images and `keep_smaller` is false, or a subset would be left without a class.
    """
    key = "at_most_per_class" if keep_smaller else "images_per_class"
    rng = np.random.default_rng(seed)
    kept: dict[Subset, list[npt.NDArray[np.int64]]] = {subset: [] for subset in subsets}
    for label, name in enumerate(class_names):
        members = {subset: indices[labels[indices] == label] for subset, indices in subsets.items()}
        total = sum(map(len, members.values()))
        if total < images_per_class and not keep_smaller:
            raise DataError(
                f"{key} = {images_per_class}, but class {name!r} has {total} images; accepted: at most {total}"
            )
        # Running totals are rounded, not the sizes of the subsets, so that the sizes add up exactly.
        running = np.cumsum([len(indices) for indices in members.values()])
        ends = np.round(running * (min(images_per_class, total) / total)).astype(int)
        for (subset, indices), size in zip(members.items(), np.diff(ends, prepend=0), strict=True):
            if size == 0:
                raise DataError(
                    f"{key} = {images_per_class} leaves the {subset} subset without an image of "
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
    at_most_per_class: int | None = None,
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
    at_most_per_class : int or None
        The same, but classes with fewer images keep all of them.
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
    if at_most_per_class is not None:
        subsets = reduce_classes(pool.labels, subsets, at_most_per_class, seed, class_names, keep_smaller=True)
        sizes = np.bincount(np.concatenate([pool.labels[indices] for indices in subsets.values()]))
        smaller = [f"{name} {size}" for name, size in zip(class_names, sizes, strict=True) if size < at_most_per_class]
        fewer = f" Classes with fewer keep all images: {', '.join(smaller)}." if smaller else ""
        note = f"{note} Reduced to at most {at_most_per_class} images per class over all subsets.{fewer}"
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
