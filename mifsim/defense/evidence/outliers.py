"""Synthetic images for the classifier of the flag ``naturalness``, all made of the server's own images.

Outliers are images that no camera takes, but that searches for a class's image pass through: mixes, averages,
projections and samples of principal components, noise, unusual light, blurred and sharpened images. Honest variations
are what users and their programs do to an image: motion, light, sensor noise, crops, compression, borders, and plain
backgrounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
Images = npt.NDArray[np.float32]
Random = np.random.Generator

ALTERED = 0.45
"""Share of the outliers that are altered once more."""
NEIGHBOURS = 20
"""Number of nearest images among which the partner of a mix within a class is drawn."""


@dataclass(frozen=True)
class Source:
    """The server's own images, and what the makers of outliers need of their principal components.

    Attributes
    ----------
    images : ndarray of float32, shape (n, H, W) or (n, H, W, C)
    mean, axes, deviations
        See `mifsim.defense.server_images.fit_server_images`.
    coordinates : ndarray of float32, shape (n, M)
        Coordinates of the images.
    """

    images: Images
    mean: npt.NDArray[np.float32]
    axes: npt.NDArray[np.float32]
    deviations: npt.NDArray[np.float32]
    coordinates: npt.NDArray[np.float32]

    @classmethod
    def of(cls, images: Images, arrays: Mapping[str, npt.NDArray[Any]]) -> Source:
        """Return the source for images and the arrays of their fit."""
        rows = images.reshape(len(images), -1) - arrays["mean"]
        return cls(images, arrays["mean"], arrays["axes"], arrays["deviations"], rows @ arrays["axes"])

    def any(self, rng: Random) -> Image:
        """Return a random image."""
        found: Image = self.images[rng.integers(len(self.images))]
        return found

    def similar(self, index: int, count: int, rng: Random) -> npt.NDArray[np.int64]:
        """Return `count` random ones of the `NEIGHBOURS` images that are nearest to an image, itself included."""
        squares = ((self.coordinates - self.coordinates[index]) ** 2).sum(axis=1)
        nearest = np.argsort(squares, kind="stable")[:NEIGHBOURS]
        return rng.choice(nearest, size=count)

    def composed(self, coordinates: npt.NDArray[np.float32]) -> Image:
        """Return the image with these first coordinates."""
        flat = self.mean + self.axes[:, : len(coordinates)] @ coordinates
        found: Image = flat.reshape(self.images.shape[1:]).astype(np.float32)
        return found


# Outliers.


def _mix(source: Source, rng: Random) -> Image:
    """Return a mix of an image with a similar one, or with any other."""
    index = int(rng.integers(len(source.images)))
    similar = rng.random() < 0.5
    other = int(source.similar(index, 1, rng)[0]) if similar else int(rng.integers(len(source.images)))
    share = np.float32(rng.uniform(0.2, 0.8))
    found: Image = share * source.images[index] + (np.float32(1) - share) * source.images[other]
    return found


def _average(source: Source, rng: Random) -> Image:
    """Return the average of a few similar images, or of any."""
    count = int(np.exp(rng.uniform(np.log(3), np.log(40))))
    index = int(rng.integers(len(source.images)))
    similar = rng.random() < 0.6
    members = source.similar(index, count, rng) if similar else rng.integers(len(source.images), size=count)
    found: Image = source.images[members].mean(axis=0)
    return found


def _toward_mean(source: Source, rng: Random) -> Image:
    """Return an image on the way from the mean image to one of the images, or beyond it."""
    mean: Image = source.mean.reshape(source.images.shape[1:])
    step = np.float32(rng.uniform(0.02, 0.8) if rng.random() < 0.7 else rng.uniform(1.3, 3.0))
    found: Image = mean + step * (source.any(rng) - mean)
    return found


def _projection(source: Source, rng: Random) -> Image:
    """Return the projection of an image on its first principal components."""
    kept = int(rng.integers(2, source.coordinates.shape[1], endpoint=True)) if source.coordinates.shape[1] > 2 else 1
    return source.composed(source.coordinates[rng.integers(len(source.images))][:kept])


def _sample(source: Source, rng: Random) -> Image:
    """Return an image of random coordinates, around the mean or one of the images."""
    kept = int(rng.integers(1, len(source.deviations), endpoint=True))
    scale = np.float32(np.exp(rng.uniform(np.log(0.1), np.log(1.5))))
    drawn = scale * source.deviations[:kept] * rng.standard_normal(kept, np.float32)
    if rng.random() < 0.5:
        drawn = drawn + source.coordinates[rng.integers(len(source.images))][:kept]
    return source.composed(drawn)


def _noise(source: Source, rng: Random) -> Image:
    """Return an image with much noise."""
    return noisy(source.any(rng), _log_uniform(rng, 0.03, 0.4), rng)


def _light(source: Source, rng: Random) -> Image:
    """Return an image with much added light or other contrast."""
    image = source.any(rng)
    return _brightness(image, rng) if rng.random() < 0.5 else _contrast(image, rng)


def _brightness(image: Image, rng: Random) -> Image:
    return image + np.float32(rng.choice((-1.0, 1.0)) * rng.uniform(0.04, 0.5))


def _contrast(image: Image, rng: Random) -> Image:
    factor = np.float32(rng.uniform(0.15, 0.75) if rng.random() < 0.6 else rng.uniform(1.3, 3.0))
    middle = np.float32(0.5) if rng.random() < 0.5 else image.mean(dtype=np.float32)
    return middle + factor * (image - middle)


def _field(source: Source, rng: Random) -> Image:
    """Return a smooth random field, alone or added to an image."""
    height, width = source.images.shape[1:3]
    coarse = rng.standard_normal((int(rng.integers(2, 9)), int(rng.integers(2, 9)), *source.images.shape[3:]))
    field = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    field = field.reshape(source.images.shape[1:]) * np.float32(_log_uniform(rng, 0.03, 0.4))
    found: Image = field + (np.float32(rng.uniform(0.1, 0.9)) if rng.random() < 0.3 else source.any(rng))
    return found


def _sharpened(source: Source, rng: Random) -> Image:
    return sharpened(source.any(rng), rng)


def sharpened(image: Image, rng: Random) -> Image:
    """Return an image with amplified fine structure."""
    return image + np.float32(rng.uniform(0.4, 3.0)) * (image - blurred(image, rng.uniform(0.6, 1.5)))


def _denoised(source: Source, rng: Random) -> Image:
    return denoised(source.any(rng), rng)


def denoised(image: Image, rng: Random) -> Image:
    """Return an image without fine structure: blurred, or the medians of 3x3 pixels."""
    if rng.random() < 0.7:
        return blurred(image, rng.uniform(0.8, 2.5))
    found: Image = cv2.medianBlur(np.ascontiguousarray(image), 3).reshape(image.shape)
    return found


OUTLIERS: tuple[tuple[float, Callable[[Source, Random], Image]], ...] = (
    (3.0, _mix),
    (3.0, _average),
    (1.5, _toward_mean),
    (2.0, _projection),
    (3.0, _sample),
    (1.5, _noise),
    (1.5, _light),
    (1.0, _field),
    (1.0, _sharpened),
    (1.0, _denoised),
)
"""Makers of outliers, with their weights."""


def outliers(source: Source, count: int, rng: Random) -> Iterator[Image]:
    """Yield synthetic outliers, float32 in [0, 1]."""
    weights = np.array([weight for weight, _ in OUTLIERS])
    for maker in rng.choice(len(OUTLIERS), size=count, p=weights / weights.sum()):
        image = OUTLIERS[maker][1](source, rng)
        if rng.random() < ALTERED:
            image = _altered(clipped(image), rng)
        yield clipped(image)


def _altered(image: Image, rng: Random) -> Image:
    """Return an image after one change that an attacker could use to hide it."""
    change = rng.integers(6)
    if change == 0:
        return noisy(image, _log_uniform(rng, 0.003, 0.1), rng)
    if change == 1:
        return image + np.float32(rng.uniform(-0.15, 0.15))
    if change == 2:
        middle = np.float32(0.5)
        return middle + np.float32(rng.uniform(0.6, 1.4)) * (image - middle)
    if change == 3:
        return moved(image, 1.5, 5.0, 0.05, rng)
    return sharpened(image, rng) if change == 4 else denoised(image, rng)


# Honest variations.


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


def honest(source: Source, count: int, rng: Random) -> Iterator[Image]:
    """Yield the images themselves and honest variations of them, float32 in [0, 1]; a third are unchanged."""
    weights = np.array([weight for weight, _ in HONEST])
    for number in range(count):
        image = source.images[number % len(source.images)]
        if number % 3:
            image = HONEST[rng.choice(len(HONEST), p=weights / weights.sum())][1](image, rng)
        yield clipped(image)


# Changes that several of them use.


def _log_uniform(rng: Random, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def noisy(image: Image, deviation: float, rng: Random) -> Image:
    """Return an image with white noise."""
    return image + np.float32(deviation) * rng.standard_normal(image.shape, np.float32)


def blurred(image: Image, deviation: float) -> Image:
    """Return an image after a Gaussian blur; the border is replicated."""
    found: Image = cv2.GaussianBlur(image, (0, 0), deviation, borderType=cv2.BORDER_REPLICATE).reshape(image.shape)
    return found


def moved(image: Image, pixels: float, degrees: float, zoom: float, rng: Random) -> Image:
    """Return an image after random motion; the arguments are standard deviations."""
    height, width = image.shape[:2]
    right, down, turn, larger = rng.standard_normal(4)
    motion = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees * turn, float(np.exp(zoom * larger)))
    motion[:, 2] += pixels * right, pixels * down
    found: Image = cv2.warpAffine(image, motion, (width, height), borderMode=cv2.BORDER_REPLICATE).reshape(image.shape)
    return found


def resized(image: Image, height: int, width: int) -> Image:
    """Return an image of another size: averages of areas if it is smaller, else bilinear."""
    how = cv2.INTER_AREA if height <= image.shape[0] and width <= image.shape[1] else cv2.INTER_LINEAR
    found: Image = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=how)
    return found.reshape((height, width, *image.shape[2:]))


def compressed(image: Image, quality: int) -> Image:
    """Return an image after JPEG compression."""
    pixels = np.rint(clipped(image) * np.float32(255)).astype(np.uint8)
    grey = image.ndim == 2 or image.shape[2] == 1
    sent = pixels if grey else pixels[..., ::-1]  # OpenCV's order of the channels
    _, content = cv2.imencode(".jpg", np.ascontiguousarray(sent), [cv2.IMWRITE_JPEG_QUALITY, quality])
    received: Any = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
    found: Image = (received if grey else received[..., ::-1]).reshape(image.shape).astype(np.float32)
    return found / np.float32(255)


def clipped(image: Image) -> Image:
    """Return an image with values clipped to [0, 1]."""
    return np.clip(image, np.float32(0), np.float32(1)).astype(np.float32)
