"""What a data set is to the rest: four parts that share no image, each a pool of labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from mifsim.errors import DataError

Part = Literal["private", "auxiliary", "users", "evaluator"]
PARTS: tuple[Part, ...] = ("private", "auxiliary", "users", "evaluator")


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


@dataclass(frozen=True)
class ArrayPool:
    """Images held as one uint8 array (which may be memory-mapped).

    Attributes
    ----------
    pixels : ndarray of uint8, shape (n, H, W) or (n, H, W, 3)
    labels : ndarray of int64, shape (n,)
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> npt.NDArray[np.float32]:
        """Return one image, float32 in [0, 1]."""
        return self.pixels[index].astype(np.float32) / np.float32(255)

    def images(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return several at once."""
        return self.pixels[np.asarray(indices)].astype(np.float32) / np.float32(255)


@dataclass(frozen=True)
class DataSet:
    """A data set, split by role.

    Attributes
    ----------
    name : str
    shape : tuple of int
        Of one image: (H, W) or (H, W, 3).
    class_names : tuple of str
    parts : mapping from part to pool
        ``private``: the victim's training images. ``auxiliary``: what attackers may hold. ``users``: what honest
        users send, never trained on. ``evaluator``: what the evaluator is trained on beside the private part.
        No image is in two parts.
    fingerprint : str
        A digest of the content and the split; equal digests mean equal images in equal parts.
    note : str
        How it was split, and whether it is rendered rather than photographed.
    """

    name: str
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    parts: Mapping[Part, ImagePool]
    fingerprint: str
    note: str

    def part(self, name: Part) -> ImagePool:
        """Return one part."""
        return self.parts[name]


def split_by_class(
    labels: npt.NDArray[np.int64], shares: Mapping[Part, float], seed: int
) -> dict[Part, npt.NDArray[np.int64]]:
    """Split indices into parts, class by class, so that every part has every class in the same proportion.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
    shares : mapping
        Part to its share of each class; they add up to 1.
    seed : int

    Returns
    -------
    dict
        Part to sorted indices.
    """
    if not np.isclose(sum(shares.values()), 1.0):
        raise ValueError(f"shares must add up to 1, got {dict(shares)}")
    rng = np.random.default_rng(seed)
    chosen: dict[Part, list[npt.NDArray[np.int64]]] = {part: [] for part in shares}
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < len(shares):
            raise DataError(f"class {label} has {len(members)} images; a split into {len(shares)} parts needs at least as many")
        ends = np.round(np.cumsum(list(shares.values())) * len(members)).astype(int)
        for part, start, end in zip(shares, [0, *ends[:-1]], ends, strict=True):
            chosen[part].append(members[start:end])
    return {part: np.sort(np.concatenate(pieces)) for part, pieces in chosen.items()}
