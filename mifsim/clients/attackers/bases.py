"""Orthonormal bases of few, broad patterns, to measure a gradient along where one query per pixel is too expensive.

A classifier's gradient at a natural image has most of its energy in low frequencies, and so has the component that a
second classifier agrees with; d + 1 queries per step become a few dozen.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float64]
"""A basis: orthonormal rows (size, pixels), with the pixels in the images' memory order (C, channels last)."""


def dct_basis(shape: tuple[int, ...], most: int) -> Rows:
    """Return the lowest frequencies of the orthonormal cosine transform (DCT-II), the lowest first.

    Parameters
    ----------
    shape : tuple of int
        Of one image: (H, W) or (H, W, 3).
    most : int
        Maximum number of patterns; every frequency is used once per channel, so the number is rounded down to a
        multiple of the channels (at least one per channel).

    Returns
    -------
    ndarray, shape (size, pixels)
    """
    height, width = shape[:2]
    down, across = _cosines(height), _cosines(width)
    radius = (np.arange(height)[:, None] / height) ** 2 + (np.arange(width) / width) ** 2
    order = np.argsort(radius, axis=None, kind="stable")[: _a_channel(shape, most)]
    patterns = [np.outer(down[u], across[v]) for u, v in zip(*np.unravel_index(order, radius.shape), strict=True)]
    return _in_every_channel(np.stack(patterns), shape)


def block_basis(shape: tuple[int, ...], most: int) -> Rows:
    """Return the indicators of a square grid of blocks, as fine as `most` allows; see `dct_basis`.

    Blocks differ by a pixel where the grid does not divide the image.
    """
    height, width = shape[:2]
    grid = max(1, int(_a_channel(shape, most) ** 0.5))
    down, across = _intervals(height, min(grid, height)), _intervals(width, min(grid, width))
    patterns = (down[:, None, :, None] * across[None, :, None, :]).reshape(-1, height, width)
    return _in_every_channel(patterns, shape)


def _a_channel(shape: tuple[int, ...], most: int) -> int:
    channels = 1 if len(shape) == 2 else shape[2]
    return max(1, min(most // channels, shape[0] * shape[1]))


def _cosines(count: int) -> Rows:
    """Return the DCT-II of `count` points: row k is the k-th cosine, of norm 1."""
    k, n = np.arange(count)[:, None], np.arange(count)
    rows: Rows = np.cos(np.pi * k * (n + 0.5) / count) * np.sqrt(2 / count)
    rows[0] /= np.sqrt(2)
    return rows


def _intervals(count: int, pieces: int) -> Rows:
    """Return the indicators of `pieces` intervals that make up `count` points, each of norm 1."""
    member = np.arange(count) * pieces // count
    rows = (member == np.arange(pieces)[:, None]).astype(np.float64)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _in_every_channel(patterns: npt.NDArray[np.float64], shape: tuple[int, ...]) -> Rows:
    """Return grey patterns (n, H, W) as rows of an image of this shape, once for each channel."""
    if len(shape) == 2:
        return patterns.reshape(len(patterns), -1)
    one_channel = np.eye(shape[2])
    return np.asarray(np.einsum("nhw,cd->nchwd", patterns, one_channel).reshape(len(patterns) * shape[2], -1))
