"""Exact and near duplicates in a set of images.

Two images are near duplicates if their thumbnails are almost equal: the root mean square difference of their values is
at most `MOST_DIFFERENCE` of 255 levels (`MOST_DIFFERENCE_OF_SMALL` for small colour images) and at most
`MOST_RELATIVE` of the thumbnails' contrast. Copies in another format, quality (JPEG 75 and better; 90 for small colour
images) or size are near duplicates; crops, mirror images and other shots of a subject are not. The 60,000 training
digits of MNIST and the 400 AT&T faces contain none; among 10,000 images of CelebA are three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.data.base import ArrayPool

SIDE = 16
"""Height and width of a thumbnail, in pixels. A grey image that is smaller is its own thumbnail; of a smaller colour
image, at least two pixels by two are one, because JPEG and WebP store colours at half of the resolution."""

MOST_DIFFERENCE = 4.0
"""Maximum root mean square difference of the thumbnails of two duplicates, in levels of 0 to 255."""

MOST_DIFFERENCE_OF_SMALL = 5.0
"""The same for colour images with a side below twice `SIDE`, in luminance and `CHROMA_WEIGHT` times the colours'
differences from it: lossy files change the colours of so few pixels most. Of 3,000 faces of CelebA, reduced to 16 by 16
pixels, no two are as similar."""
CHROMA_WEIGHT = 0.2

_LUMINANCE = np.array([0.299, 0.587, 0.114])

MOST_RELATIVE = 0.2
"""The same, as a share of the contrast (standard deviation): at 0.2, the correlation is about 0.98."""

_BLOCK = 1024


def originals(pool: ArrayPool) -> npt.NDArray[np.int64]:
    """Return, for each image, the index of the image of which it is a duplicate; its own if there is none.

    The images that are their own originals are distinct: no two of them are duplicates. Of two duplicates, the darker
    one becomes the original.

    Parameters
    ----------
    pool : ArrayPool

    Returns
    -------
    ndarray of int64, shape (n,)

    Notes
    -----
    The thumbnails are compared by the coefficients of their discrete cosine transform, which keeps distances. Its first
    coefficient is the mean: only images with almost the same mean are compared. The next ones are low frequencies, in
    which images differ most, so that a few coefficients show that two images differ.
    """
    from mifsim.data.duplicates_kernel import leaders

    coefficients, variance = _transformed(pool)
    values = coefficients.shape[1]
    # The transform is orthonormal: the squared distance of two thumbnails is that of their coefficients.
    most = MOST_DIFFERENCE_OF_SMALL if _of_small_colours(pool) else MOST_DIFFERENCE
    limits = np.minimum(most**2, MOST_RELATIVE**2 * variance) * values
    order = np.argsort(coefficients[:, 0], kind="stable")
    found = np.empty(len(order), np.int64)
    found[order] = order[leaders(coefficients[order], limits[order])]
    return found


@dataclass(frozen=True)
class Copies:
    """The duplicates in a set of images.

    Attributes
    ----------
    copies, originals : ndarray of int64, shape (m,)
        Indices of the images that are duplicates, and of those that they duplicate.
    exact : int
        Number of copies with the same pixels as their original.
    """

    copies: npt.NDArray[np.int64]
    originals: npt.NDArray[np.int64]
    exact: int

    @classmethod
    def find(cls, pool: ArrayPool) -> Copies:
        """Find the duplicates in a pool; see `originals`."""
        first = originals(pool)
        copies = np.flatnonzero(first != np.arange(len(first)))
        pairs = zip(copies, first[copies], strict=True)
        return cls(copies, first[copies], sum(np.array_equal(pool.pixels[a], pool.pixels[b]) for a, b in pairs))

    def __len__(self) -> int:
        return len(self.copies)

    def to_dict(self) -> dict[str, Any]:
        """Return the duplicates as values that JSON can represent."""
        return {"copies": self.copies.tolist(), "originals": self.originals.tolist(), "exact": self.exact}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Copies:
        """Return the duplicates from the result of `to_dict`."""
        copies, others = (np.asarray(table[key], np.int64) for key in ("copies", "originals"))
        return cls(copies, others, table["exact"])


def _of_small_colours(pool: ArrayPool) -> bool:
    """Return whether the images are compared by luminance first; see `MOST_DIFFERENCE_OF_SMALL`."""
    return pool.pixels.ndim == 4 and min(pool.pixels.shape[1:3]) < 2 * SIDE


def _transformed(pool: ArrayPool) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return the coefficients of the thumbnails, low frequencies first, shape (n, values), and their variances (n,)."""
    import cv2

    channels = pool.pixels.shape[3] if pool.pixels.ndim == 4 else 1
    colours = _of_small_colours(pool)
    height, width = (min(SIDE, side if channels == 1 else -(-side // 2)) for side in pool.pixels.shape[1:3])
    basis = np.kron(_cosines(height), _cosines(width)).astype(np.float32)
    frequency = np.add.outer(np.arange(height), np.arange(width)).ravel()
    basis = basis[np.argsort(frequency, kind="stable")]
    coefficients = np.empty((len(pool), height * width * channels), np.float32)
    variance = np.empty(len(pool))
    for start in range(0, len(pool), _BLOCK):
        images = np.asarray(pool.pixels[start : start + _BLOCK])
        small: Any = [cv2.resize(image, (width, height), None, 0, 0, cv2.INTER_AREA) for image in images]
        flat = np.asarray(small, np.float32).reshape(len(images), height * width, channels)
        variance[start : start + len(images)] = flat.var(axis=(1, 2))
        if colours:
            # Scaled so that the mean over three values is the sum of the squares.
            luminance = flat @ _LUMINANCE
            chroma = CHROMA_WEIGHT * (flat[..., ::2] - luminance[..., None])
            flat = np.sqrt(3) * np.concatenate([luminance[..., None], chroma], axis=2)
            variance[start : start + len(images)] = luminance.var(axis=1)
        # Frequency by frequency, and within one by colour; the first value is the mean of the first colour.
        coefficients[start : start + len(images)] = np.einsum("fp,npc->nfc", basis, flat, optimize=True).reshape(
            len(images), -1
        )
    return coefficients, variance


def _cosines(size: int) -> npt.NDArray[np.float64]:
    """Return the orthonormal DCT-II matrix."""
    rows: npt.NDArray[np.float64] = np.cos(np.pi * np.outer(np.arange(size), np.arange(size) + 0.5) / size) * np.sqrt(
        2 / size
    )
    rows[0] = np.sqrt(1 / size)
    return rows
