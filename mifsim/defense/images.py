"""Validation of submitted images, and their conversion to float32 pixels.

This module imports numba and OpenCV, so import it only in functions that need it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mifsim.defense.compiled import entry
from mifsim.errors import InvalidImage

Pixels = npt.NDArray[np.float32]
"""An image: shape (H, W) or (H, W, C), float32 in [0, 1], C-contiguous."""

Planes = npt.NDArray[np.float32]
"""An image channel by channel: shape (C, H * W), the layout of the kernels."""

_WHITE = np.float32(255)

ACCEPTED = "an image is a numpy array of shape (H, W), (H, W, 1) or (H, W, 3), of uint8 or of floats in [0, 1]"


@entry
def _in_unit_interval(values: Any) -> bool:
    """Return whether all values are in [0, 1]; NaN is not, because all comparisons with it are false."""
    flat = values.reshape(values.size)
    inside = True
    for i in range(len(flat)):
        inside &= (flat[i] >= 0.0) & (flat[i] <= 1.0)  # without a branch, so that the loop is vectorised
    return inside


@entry
def _split_colours(pixels: Any) -> Any:
    """Convert pixels of shape (H, W, 3) to planes of shape (3, H * W)."""
    places = pixels.shape[0] * pixels.shape[1]
    mixed = pixels.reshape(3 * places)
    planes = np.empty((3, places), np.float32)
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(places):
        red[i], green[i], blue[i] = mixed[3 * i], mixed[3 * i + 1], mixed[3 * i + 2]
    return planes


@entry
def _mean(values: Any) -> Any:
    """Return the mean in float64, summed in memory order."""
    total = 0.0
    for value in values.reshape(values.size):
        total += np.float64(value)
    return total / values.size


@entry
def _check_each(values: Any, shrunk: Any) -> Any:
    """Return, for each row, whether all `values` are in [0, 1], and the mean of `shrunk` as `_mean` computes it."""
    inside, means = np.empty(len(values), np.bool_), np.empty(len(values))
    for k in range(len(values)):
        row, valid = values[k], True
        for i in range(len(row)):
            valid &= (row[i] >= 0.0) & (row[i] <= 1.0)
        inside[k] = valid
        total = 0.0
        for value in shrunk[k]:
            total += np.float64(value)
        means[k] = total / shrunk.shape[1]
    return inside, means


def admit(image: object, shape: tuple[int, ...] | None = None, smallest: int = 1) -> Pixels:
    """Validate an image and convert it to float32 in [0, 1].

    Parameters
    ----------
    image : object
        ``uint8`` is divided by 255 in float32, before any other operation. float16, float32 and float64 must be finite
        and in [0, 1]; this is checked before they are rounded to float32.
    shape : tuple of int, optional
        Shape of the session's first image, which the image must have. (H, W) and (H, W, 1) are different shapes.
    smallest : int
        Smallest accepted height and width: the window of the SSIM form.

    Returns
    -------
    ndarray of float32, same shape
        A copy, so that later changes to the client's array have no effect.

    Raises
    ------
    InvalidImage
        If the image is not accepted. The message describes the image and what is accepted.
    """
    # Masked values are not pixels, and comparisons skip them.
    if not isinstance(image, np.ndarray) or isinstance(image, np.ma.MaskedArray):
        raise InvalidImage(f"got {type(image).__name__}; {ACCEPTED}")
    if image.shape != shape:
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)) or image.size == 0:
            raise InvalidImage(f"got shape {image.shape}; {ACCEPTED}")
        if shape is not None:
            raise InvalidImage(f"got shape {image.shape}; this session's first image had shape {shape}")
        if min(image.shape[:2]) < smallest:
            raise InvalidImage(
                f"got shape {image.shape}; this form of SSIM needs at least {smallest} x {smallest} pixels"
            )
    pixels: Pixels
    kind, size = image.dtype.kind, image.dtype.itemsize
    if kind == "u" and size == 1:
        pixels = image.astype(np.float32, order="C", subok=False)
        pixels /= _WHITE
        return pixels
    if kind != "f" or size not in (2, 4, 8):
        raise InvalidImage(f"got dtype {image.dtype}; {ACCEPTED}")
    values: npt.NDArray[Any] = np.array(image, dtype=np.float64 if size == 8 else np.float32, order="C")
    if not _in_unit_interval(values):
        raise InvalidImage(f"got {_fault(values)}; {ACCEPTED}")
    pixels = values if size < 8 else values.astype(np.float32)
    return pixels


def _fault(values: npt.NDArray[Any]) -> str:
    """Describe the error of values that are not all in [0, 1]."""
    for name, found in (("NaN", np.isnan(values)), ("infinite", np.isinf(values))):
        if found.any():
            return f"{found.sum()} {name} of {values.size} values"
    return f"values from {float(values.min())!r} to {float(values.max())!r}"


def to_planes(pixels: Pixels) -> Planes:
    """Return pixels channel by channel, shape (C, H * W); a numpy view of images with one channel."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return pixels.reshape(1, -1)
    planes: Planes = _split_colours(pixels)
    return planes


def from_planes(planes: Planes, shape: tuple[int, ...]) -> Pixels:
    """Return planes as pixels of shape `shape`; the inverse of `to_planes`."""
    return np.ascontiguousarray(planes.T).reshape(shape)


def hash_of(pixels: Pixels, size: int) -> float:
    """Return the hash of a validated image, in [0, 1]; see `mifsim.defense.simple_hash`."""
    mean: float = _mean(cv2.resize(pixels, (size, size), None, 0, 0, cv2.INTER_AREA))
    return mean


def admit_each(
    images: npt.NDArray[np.float32], hash_size: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Validate several images of one shape, and return their hashes.

    Parameters
    ----------
    images : ndarray of float32, shape (n, H, W) or (n, H, W, C), C-contiguous
    hash_size : int
        See `hash_of`.

    Returns
    -------
    valid : ndarray of bool, shape (n,)
        Whether all values of an image are in [0, 1].
    hashes : ndarray of float64, shape (n,)
        The hashes, equal to those of `hash_of`; without a meaning for images that are not valid.
    """
    count, height, width = images.shape[:3]
    # OpenCV shrinks images that lie below each other in one call. The weights of the rows are those of a single image
    # if the scale is a number without rounding error, and if no pixel contributes to two images.
    scale = height / hash_size
    if scale >= 1 and width >= hash_size and (scale * 2**16).is_integer():
        rows = images.reshape(count * height, *images.shape[2:])
        shrunk = cv2.resize(rows, (hash_size, count * hash_size), None, 0, 0, cv2.INTER_AREA)
    else:
        shrunk = np.stack([cv2.resize(image, (hash_size, hash_size), None, 0, 0, cv2.INTER_AREA) for image in images])
    valid, hashes = _check_each(images.reshape(count, -1), shrunk.reshape(count, -1))
    return valid, hashes


def inside_each(images: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return whether all values of an image are in [0, 1], for each of several; see `admit_each`."""
    values = images.reshape(len(images), -1)
    valid: npt.NDArray[np.bool_] = _check_each(values, values[:, :1])[0]
    return valid


def planes_of_each(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return several images channel by channel, shape (n, C, H * W); see `to_planes`."""
    if images.ndim == 3 or images.shape[3] == 1:
        return images.reshape(len(images), 1, -1)
    return np.stack([to_planes(image) for image in images])
