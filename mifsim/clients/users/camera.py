"""Changes to an image before a client sends it: a camera's motion, light and noise, resizing, and JPEG compression.

Images are float32 in [0, 1], (H, W) or (H, W, 3). `add_noise` and `clipped` work in place; the other functions leave
their input unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.clients.protocol import Image
from mifsim.data.image_files import through_jpeg

NOISE_TABLE = 2**20
"""Number of normal random numbers drawn once per process, as noise for small images: drawing new ones is slow."""


class Shot(NamedTuple):
    """What is drawn for one shot of a camera.

    Attributes
    ----------
    subject : Image
    right, down : float
        Shift of the subject, in pixels.
    degrees, zoom : float
        Rotation and zoom about the centre.
    light : float
        Factor of all values.
    noise : Image
        See `drawn_noise`.
    offset : float
        Added to all values, after `light`.
    """

    subject: Image
    right: float
    down: float
    degrees: float
    zoom: float
    light: float
    noise: Image
    offset: float = 0.0


def shots_at_once(shape: tuple[int, ...]) -> int:
    """Return the number of shots that a session draws ahead: 16, but no more than 64 KiB."""
    return max(1, min(16, 2**14 // math.prod(shape)))


def in_blocks(shots: Iterator[Shot], at_once: int, length: int | None) -> Iterator[list[Shot]]:
    """Yield the first `length` shots (all if None), `at_once` in a list; none is drawn before its list is wanted."""
    wanted = shots if length is None else islice(shots, length)
    while block := list(islice(wanted, at_once)):
        yield block


def moved_each(shots: Sequence[Shot]) -> npt.NDArray[np.float32]:
    """Return the subjects after their motions (bilinear, with the border replicated), shape (n, *shape)."""
    import cv2

    height, width = shots[0].subject.shape[:2]
    centre = (width - 1) / 2, (height - 1) / 2
    images = np.empty((len(shots), *shots[0].subject.shape), dtype=shots[0].subject.dtype)
    for shot, image in zip(shots, images, strict=True):
        motion = cv2.getRotationMatrix2D(centre, shot.degrees, shot.zoom)
        motion[0, 2] += shot.right
        motion[1, 2] += shot.down
        cv2.warpAffine(shot.subject, motion, (width, height), dst=image, borderMode=cv2.BORDER_REPLICATE)
    return images


def rendered(shots: Iterator[Shot], noise: float, at_once: int = 1, length: int | None = None) -> Iterator[Image]:
    """Yield the images of shots: the moved subjects · light + offset, with noise of sd `noise`, clipped to [0, 1].

    `at_once` and `length` are those of `in_blocks`.
    """
    for block in in_blocks(shots, at_once, length):
        images = moved_each(block)
        images *= as_factors([shot.light for shot in block], images)
        images += as_factors([shot.offset for shot in block], images)
        for shot, image in zip(block, images, strict=True):
            add_noise(image, shot.noise, noise)
        yield from clipped(images)


def as_factors(values: Sequence[float], images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return one number for each image, in a shape that numpy combines with `images`."""
    return np.array(values, dtype=np.float32).reshape(-1, *(1,) * (images.ndim - 1))


def drawn_noise(shape: tuple[int, ...], rng: np.random.Generator) -> Image:
    """Return normal numbers of mean 0 and sd 1, independent from pixel to pixel; do not write to them.

    An image with at most a sixteenth of `NOISE_TABLE` values takes a section of that table at a random position; two
    sections are practically independent unless they start at the same position. For a larger image, all numbers are
    drawn.
    """
    size = math.prod(shape)
    if size > NOISE_TABLE // 16:
        return rng.standard_normal(shape, np.float32)
    start = int(rng.integers(NOISE_TABLE - size))
    return _noise_table()[start : start + size].reshape(shape)


def add_noise(image: Image, noise: Image, sd: float) -> None:
    """Add noise from `drawn_noise` with this standard deviation, in place."""
    import cv2

    if image.size > NOISE_TABLE // 16:
        image += np.float32(sd) * noise
    else:
        cv2.scaleAdd(noise, sd, image, dst=image)


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
