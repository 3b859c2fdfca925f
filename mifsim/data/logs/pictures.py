"""The image of a row: decoding an image file's bytes or an array's bytes, and preprocessing it for the model."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.data.image_files import decode
from mifsim.data.logs.cells import encoding_problem
from mifsim.data.logs.rows import Exact
from mifsim.data.preprocessing import Preprocessed, Preprocessing, fit, share_cut_away

Bytes = npt.NDArray[np.uint8]
Values = Bytes | npt.NDArray[np.float32]
"""One image, (H, W) or (H, W, 3): uint8, or float32 in [0, 1]."""


class Picture(NamedTuple):
    """A preprocessed image of a log.

    Attributes
    ----------
    pixels : ndarray of uint8, or of float32 in [0, 1]
    preprocessed : Preprocessed or None
        What preprocessing lost; None for an array that keeps its values.
    rounded : bool
        Whether an array of floats was rounded to 8 bits, because its shape is not that of the model.
    """

    pixels: Values
    preprocessed: Preprocessed | None
    rounded: bool = False


def grey_values(image: bytes, exact: Exact | None) -> Values:
    """Return the image of a row in grey, as stored.

    Parameters
    ----------
    image : bytes
        The bytes of an image file or, with `exact`, those of an array.
    exact : Exact or None

    Raises
    ------
    ValueError
        If it is not a valid image.
    """
    if exact is not None:
        return array_values(image, exact)
    try:
        return decode(image, "grey")
    except ValueError:
        if (problem := encoding_problem(image[:256].decode("ascii", "replace"))) is not None:
            raise ValueError(problem) from None
        raise


def preprocessed(image: bytes, exact: Exact | None, preprocessing: Preprocessing) -> Picture:
    """Return the image of a row as the model receives it.

    An array that has the model's height and width keeps its values; an array of another shape is rounded to 8 bits and
    treated like an image file.

    Raises
    ------
    ValueError
        If it is not a valid image.
    """
    if exact is None:
        found = preprocessing.prepare(image)
        return Picture(found.pixels, found)
    values, shape = array_values(image, exact), preprocessing.shape
    if values.shape == shape:
        return Picture(values, None)
    if values.ndim == 2 and values.shape == shape[:2]:
        repeated: Values = np.repeat(values[..., None], 3, axis=2)  # type: ignore[assignment]
        return Picture(repeated, None)
    rounded = values.dtype != np.uint8
    pixels: Bytes = np.rint(values * np.float32(255)).astype(np.uint8) if rounded else values.astype(np.uint8)
    pixels = _recoloured(pixels, len(shape))
    height, width = shape[:2]
    cut = share_cut_away(pixels.shape[:2], (height, width)) if preprocessing.fit == "cut" else 0.0
    fitted = fit(pixels, height, width, preprocessing.fit, preprocessing.background or (0, 0, 0))
    return Picture(fitted, Preprocessed(fitted, cut, False), rounded)


def array_values(image: bytes, exact: Exact) -> Values:
    """Return the array of a row: uint8, or float32 in [0, 1] with the bits of a stored float32.

    Raises
    ------
    ValueError
        If the number of bytes does not fit, or a value is not a number from 0 to 1.
    """
    dtype = np.dtype(exact.dtype)
    needed = math.prod(exact.shape) * dtype.itemsize
    if len(image) != needed:
        raise ValueError(
            f"{len(image):,} bytes; an array of {dtype.name} and shape {'x'.join(map(str, exact.shape))} has {needed:,}"
        )
    values = np.frombuffer(image, dtype).reshape(exact.shape)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if dtype == np.uint8:
        return values
    if not np.isfinite(values).all():
        raise ValueError("an array with values that are not finite")
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"an array with values from {values.min():g} to {values.max():g} (accepted: 0 to 1)")
    return np.ascontiguousarray(values, dtype=np.float32)


def _recoloured(pixels: Bytes, dimensions: int) -> Bytes:
    import cv2

    if dimensions == 2 and pixels.ndim == 3:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    if dimensions == 3 and pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return pixels
