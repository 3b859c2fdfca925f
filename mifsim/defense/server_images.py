"""The fit that several kinds share: principal components of the server's own images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from mifsim.defense.fit import Fit
from mifsim.errors import ConfigError

COMPONENTS = 60
"""Number of principal components, if the images span as many."""
LEAST_IMAGES = 100
"""Smallest number of images to fit to."""
_TINY = 1e-9
"""Far below the rounding error of sums of float32 products of pixels and axes."""
MOST_IMAGES = 5_000
"""Largest number of images to fit to; of more, evenly spaced ones are used."""


def fit_server_images(images: npt.NDArray[np.float32], hashes: npt.NDArray[np.uint64], facts: Mapping[str, Any]) -> Fit:
    """Compute the principal components of images.

    Parameters
    ----------
    images : ndarray of float32, shape (n, H, W) or (n, H, W, C)
        The server's own images as a detector compares them, with the view applied.
    hashes : ndarray of uint64, shape (n,)
        `image_hash` of each image as it is sent, before the view. They are stored, to check later that the images are
        not those of users or attackers.
    facts : mapping
        Origin of the images, as plain JSON values.

    Returns
    -------
    Fit
        ``mean`` (d,), ``axes`` (d, M), orthonormal columns in order of decreasing variance, ``deviations`` (M,), the
        standard deviations along the axes, and ``hashes`` (n,), sorted. d is the number of values of an image and M at
        most `COMPONENTS`.

    Raises
    ------
    ConfigError
        If there are fewer than `LEAST_IMAGES` images, or they are all equal.
    """
    if len(images) < LEAST_IMAGES:
        raise ConfigError(f"a fit needs at least {LEAST_IMAGES} images, got {len(images)}")
    if len(images) > MOST_IMAGES:
        chosen = np.unique(np.linspace(0, len(images) - 1, MOST_IMAGES).round().astype(int))
        images, hashes = images[chosen], hashes[chosen]
    rows = images.reshape(len(images), -1).astype(np.float64)
    mean = rows.mean(axis=0)
    centred = rows - mean
    wide = centred.shape[0] < centred.shape[1]
    # The last bits depend on the number of threads, which differs between the processes of a run.
    with threadpool_limits(limits=1, user_api="blas"):
        squares, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
        order = np.argsort(-squares, kind="stable")[:COMPONENTS]
        order = order[squares[order] > 1e-10 * max(float(squares.max()), 1e-30)]
        axes = vectors[:, order].T
        if wide:
            axes = axes @ centred / np.sqrt(squares[order])[:, None]
    if not len(axes):
        raise ConfigError(f"a fit needs different images, got {len(images)} equal ones")
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]  # the sign is arbitrary
    return Fit(
        {**facts, "shape": list(images.shape[1:]), "images": len(images)},
        {
            "mean": _without_tiny(mean),
            # One row for each pixel: a loop over all components per pixel is fast, and has a fixed order of summation.
            "axes": _without_tiny(np.ascontiguousarray(axes.T)),
            "deviations": np.sqrt(squares[order] / (len(images) - 1)).astype(np.float32),
            "hashes": np.unique(hashes),
        },
    )


def _without_tiny(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the values as float32, with tiny ones as 0: a processor computes with subnormal numbers very slowly."""
    return np.where(np.abs(values) < _TINY, 0.0, values).astype(np.float32)


def image_hash(pixels: npt.NDArray[np.uint8]) -> int:
    """Return a 64-bit hash of an 8-bit image's pixels; equal images have equal hashes."""
    content = hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=8)
    content.update(str(pixels.shape).encode())
    return int.from_bytes(content.digest(), "little")
