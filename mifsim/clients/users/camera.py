"""Changes to an image before a client sends it: a camera's motion, light and noise, resizing, and JPEG compression.

Images are float32 in [0, 1], (H, W) or (H, W, 3). `add_noise` and `clipped` work in place; the other functions leave
their input unchanged.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from mifsim.clients.protocol import Image
from mifsim.data.image_files import through_jpeg

NOISE_TABLE = 2**20
"""Number of normal random numbers drawn once per process, as noise for small images: drawing new ones is slow."""


def moved(image: Image, right: float, down: float, degrees: float = 0.0, zoom: float = 1.0) -> Image:
    """Shift an image by pixels, and rotate and zoom it about its centre (bilinear, with the border replicated)."""
    import cv2

    height, width = image.shape[:2]
    motion = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, zoom)
    motion[:, 2] += right, down
    shot: Image = cv2.warpAffine(image, motion, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return shot


def exposed(image: Image, gain: float, offset: float, noise: float, rng: np.random.Generator) -> Image:
    """Return image · (1 + gain) + offset, with noise of sd `noise` in each pixel, clipped to [0, 1]."""
    shot = image * np.float32(1 + gain)
    shot += np.float32(offset)
    add_noise(shot, noise, rng)
    return clipped(shot)


def add_noise(shot: Image, sd: float, rng: np.random.Generator) -> None:
    """Add normal noise of mean 0, independent from pixel to pixel, in place.

    An image with at most a sixteenth of `NOISE_TABLE` values takes a section of that table at a random position; two
    sections are practically independent unless they start at the same position. For a larger image, all numbers are
    drawn.
    """
    import cv2

    if shot.size > NOISE_TABLE // 16:
        shot += np.float32(sd) * rng.standard_normal(shot.shape, np.float32)
        return
    start = int(rng.integers(NOISE_TABLE - shot.size))
    piece = _noise_table()[start : start + shot.size].reshape(shot.shape)
    cv2.scaleAdd(piece, sd, shot, dst=shot)


@cache
def _noise_table() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(NOISE_TABLE, np.float32)


def as_jpeg(image: Image, quality: int) -> Image:
    """Return the image after JPEG compression with a quality of 1 to 100; values are also rounded to 8 bits."""
    pixels = np.rint(image * np.float32(255)).astype(np.uint8)
    return through_jpeg(pixels, quality).astype(np.float32) / np.float32(255)


def resized(image: Image, height: int, width: int) -> Image:
    """Resize an image: shrink by averaging over areas, which avoids aliasing, or enlarge by bilinear interpolation."""
    import cv2

    how = cv2.INTER_AREA if height <= image.shape[0] and width <= image.shape[1] else cv2.INTER_LINEAR
    return clipped(cv2.resize(image, (width, height), interpolation=how))


def coarsened(image: Image, scale: float) -> Image:
    """Shrink both sides by the factor `scale` (0 to 1), then enlarge the image to its original size."""
    height, width = image.shape[:2]
    small = resized(image, max(1, round(scale * height)), max(1, round(scale * width)))
    return resized(small, height, width)


def clipped(image: Image) -> Image:
    """Clip an image to [0, 1], in place."""
    return np.clip(image, np.float32(0), np.float32(1), out=image)
