"""Orthonormal bases of a few broad patterns, along which gradients are measured when one query per pixel is too many.

Most of the energy of a classifier's gradient at a natural image is in low frequencies, and so is most of the component
that a second classifier shares. A step then takes a few dozen queries instead of one per pixel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float64]
"""A basis: orthonormal rows, shape (size, pixels), with the pixels in C order and the channels last."""


def dct_basis(shape: tuple[int, ...], most: int) -> Rows:
    """Return the basis functions of the orthonormal cosine transform (DCT-II) of lowest frequency, in ascending order.

    Parameters
    ----------
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    most : int
        Maximum number of patterns. Every frequency is used once per channel, so the number is rounded down to a
        multiple of the number of channels, with a minimum of one per channel.

    Returns
    -------
    ndarray, shape (size, pixels)
        The basis.
    """
    height, width = shape[:2]
    down, across = _cosines(height), _cosines(width)
    radius = (np.arange(height)[:, None] / height) ** 2 + (np.arange(width) / width) ** 2
    order = np.argsort(radius, axis=None, kind="stable")[: _a_channel(shape, most)]
    patterns = [np.outer(down[u], across[v]) for u, v in zip(*np.unravel_index(order, radius.shape), strict=True)]
    return _in_every_channel(np.stack(patterns), shape)


def block_basis(shape: tuple[int, ...], most: int) -> Rows:
    """Return the indicators of a square grid of blocks, as fine as `most` allows; see `dct_basis`.

    The sides of the blocks differ by one pixel if the grid does not divide the image evenly.
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
    """Return grey patterns (n, H, W) as rows for images of this shape, once for each channel."""
    if len(shape) == 2:
        return patterns.reshape(len(patterns), -1)
    one_channel = np.eye(shape[2])
    return np.asarray(np.einsum("nhw,cd->nchwd", patterns, one_channel).reshape(len(patterns) * shape[2], -1))
