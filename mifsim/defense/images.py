"""From what a client submitted to pixels that can be compared, or an `InvalidImage` that says why not.

This module loads numba and OpenCV; import it where it is used.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mifsim.defense.compiled import entry
from mifsim.errors import InvalidImage

Pixels = npt.NDArray[np.float32]
"""(H, W) or (H, W, C), float32 in [0, 1], C-contiguous."""

Planes = npt.NDArray[np.float32]
"""The same pixels channel by channel, shape (C, H * W): the layout that the kernels work on."""

ACCEPTED = "an image is a numpy array of shape (H, W), (H, W, 1) or (H, W, 3), of uint8 or of floats in [0, 1]"


@entry
def _in_unit_interval(values: Any) -> bool:
    """Whether all are in [0, 1]. NaN is not: it compares false with everything."""
    flat = values.reshape(values.size)
    inside = True
    for i in range(len(flat)):
        inside &= (flat[i] >= 0.0) & (flat[i] <= 1.0)  # no branch, so that it is vectorised
    return inside


@entry
def _split_colours(pixels: Any) -> Any:
    """(H, W, 3) to (3, H * W)."""
    places = pixels.shape[0] * pixels.shape[1]
    mixed = pixels.reshape(3 * places)
    planes = np.empty((3, places), np.float32)
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(places):
        red[i], green[i], blue[i] = mixed[3 * i], mixed[3 * i + 1], mixed[3 * i + 2]
    return planes


@entry
def _mean(values: Any) -> Any:
    """Mean in float64, added up from first to last."""
    total = 0.0
    for value in values.reshape(values.size):
        total += np.float64(value)
    return total / values.size


def admit(image: object, shape: tuple[int, ...] | None = None, smallest: int = 1) -> Pixels:
    """Check one image and convert it to float32 in [0, 1].

    Parameters
    ----------
    image : object
        ``uint8`` is divided by 255 in float32, before anything else is done with it. float16, float32 and
        float64 must be finite and in [0, 1]; that is checked before they are rounded to float32.
    shape : tuple of int, optional
        What the session's first image had. (H, W) and (H, W, 1) are different shapes.
    smallest : int
        Least height and width: the window of the SSIM form.

    Returns
    -------
    ndarray of float32, shape as given
        A copy: what the client does with its array afterwards changes nothing.

    Raises
    ------
    InvalidImage
        Says what came and what is accepted.
    """
    # Masked values are no pixels, and comparisons would pass over them.
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
        pixels = np.divide(np.asarray(image), np.float32(255), dtype=np.float32, order="C")
        return pixels
    if kind != "f" or size not in (2, 4, 8):
        raise InvalidImage(f"got dtype {image.dtype}; {ACCEPTED}")
    values: npt.NDArray[Any] = np.array(image, dtype=np.float64 if size == 8 else np.float32, order="C")
    if not _in_unit_interval(values):
        raise InvalidImage(f"got {_fault(values)}; {ACCEPTED}")
    pixels = values if size < 8 else values.astype(np.float32)
    return pixels


def _fault(values: npt.NDArray[Any]) -> str:
    """Say what is wrong with values that are not all in [0, 1]."""
    for name, found in (("NaN", np.isnan(values)), ("infinite", np.isinf(values))):
        if found.any():
            return f"{found.sum()} {name} of {values.size} values"
    return f"values from {float(values.min())!r} to {float(values.max())!r}"


def to_planes(pixels: Pixels) -> Planes:
    """Return pixels channel by channel, shape (C, H * W); a view where there is one channel."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return pixels.reshape(1, -1)
    planes: Planes = _split_colours(pixels)
    return planes


def from_planes(planes: Planes, shape: tuple[int, ...]) -> Pixels:
    """Return the pixels that `to_planes` was given, of shape `shape`."""
    return np.ascontiguousarray(planes.T).reshape(shape)


def hash_of(pixels: Pixels, size: int) -> float:
    """Return the hash of an admitted image; see `mifsim.defense.simple_hash`."""
    mean: float = _mean(cv2.resize(pixels, (size, size), None, 0, 0, cv2.INTER_AREA))
    return mean
