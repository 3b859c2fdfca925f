"""Honest variations of images for the classifier of the flag ``naturalness``.

They are what users and their programs do to an image: motion, light, sensor noise, crops, compression, borders, and
plain backgrounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import numpy.typing as npt

from mifsim.defense.evidence.image_changes import Image, Random, clipped, compressed, moved, noisy, resized


def _shot(image: Image, rng: Random) -> Image:
    """Return a shot of a camera: motion, light and sensor noise."""
    shot = moved(image, 1.0, 3.0, 0.03, rng) * np.float32(1 + 0.05 * rng.standard_normal())
    return noisy(shot + np.float32(0.01 * rng.standard_normal()), rng.uniform(0.0, 0.015), rng)


def _crop(image: Image, rng: Random) -> Image:
    """Return a crop, enlarged to full size, or the mirror image."""
    if rng.random() < 0.25:
        return image[:, ::-1]
    height, width = image.shape[:2]
    share = rng.uniform(0.75, 0.95)
    rows, columns = max(1, round(share * height)), max(1, round(share * width))
    top, left = rng.integers((height - rows, width - columns), endpoint=True)
    return resized(image[top : top + rows, left : left + columns], height, width)


def _copy(image: Image, rng: Random) -> Image:
    """Return a smaller copy, enlarged again, or one compressed as JPEG, or both."""
    height, width = image.shape[:2]
    how = rng.integers(3)
    if how != 0:
        share = rng.uniform(0.5, 1.0)
        image = resized(resized(image, max(1, round(share * height)), max(1, round(share * width))), height, width)
    if how != 1:
        image = compressed(image, int(rng.integers(50, 95, endpoint=True)))
    return image


def _framed(image: Image, rng: Random) -> Image:
    """Return a smaller image inside a border of one level, with some blocks of other levels."""
    height, width = image.shape[:2]
    sides = rng.integers(3)
    share = rng.uniform(0.1, 0.25)
    above = 0 if sides == 1 else round(share * height)
    beside = 0 if sides == 2 else round(share * width)
    blocks = rng.uniform() + 0.1 * rng.standard_normal((8, 8, *image.shape[2:]))
    coarse = cv2.resize(blocks.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    frame: Image = coarse.reshape(image.shape)
    rows, columns = max(1, height - 2 * above), max(1, width - 2 * beside)
    frame[above : above + rows, beside : beside + columns] = resized(image, rows, columns)
    return frame


def _before_a_wall(image: Image, rng: Random) -> Image:
    """Return an image of which the surroundings of the middle are replaced by an evenly lit wall."""
    height, width = image.shape[:2]
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    mask = np.clip((1.075 - np.hypot(rows, columns) / rng.uniform(0.7, 0.9)) / 0.15, 0, 1)
    light = 1 + rng.uniform(-0.2, 0.2) * rows + rng.uniform(-0.2, 0.2) * columns
    if image.ndim == 3:
        mask, light = mask[..., None], light[..., None]
    wall = light * rng.uniform(0.2, 0.8, image.shape[2:])
    shot = (mask * moved(image, 1.0, 0.0, 0.05, rng) + (1 - mask) * wall).astype(np.float32)
    return noisy(shot * np.float32(1 + 0.05 * rng.standard_normal()), rng.uniform(0.005, 0.02), rng)


HONEST: tuple[tuple[float, Callable[[Image, Random], Image]], ...] = (
    (3.0, _shot),
    (1.0, _crop),
    (1.5, _copy),
    (1.0, _framed),
    (1.0, _before_a_wall),
)
"""Honest variations, with their weights."""


def honest(images: npt.NDArray[np.float32], count: int, rng: Random) -> Iterator[Image]:
    """Yield the images themselves and honest variations of them, float32 in [0, 1]; a third are unchanged."""
    weights = np.array([weight for weight, _ in HONEST])
    for number in range(count):
        image = images[number % len(images)]
        if number % 3:
            image = HONEST[rng.choice(len(HONEST), p=weights / weights.sum())][1](image, rng)
        yield clipped(image)
