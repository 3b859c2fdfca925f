"""Synthetic outliers for the classifier of the flag ``naturalness``, all made of the server's own images.

Outliers are images that no camera takes, but that searches for a class's image pass through: mixes, averages,
projections and samples of principal components, noise, unusual light, blurred and sharpened images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mifsim.defense.evidence.image_changes import (
    Image,
    Random,
    clipped,
    denoised,
    log_uniform,
    moved,
    noisy,
    sharpened,
)

Images = npt.NDArray[np.float32]

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
    return noisy(source.any(rng), log_uniform(rng, 0.03, 0.4), rng)


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
    field = field.reshape(source.images.shape[1:]) * np.float32(log_uniform(rng, 0.03, 0.4))
    found: Image = field + (np.float32(rng.uniform(0.1, 0.9)) if rng.random() < 0.3 else source.any(rng))
    return found


def _sharpened(source: Source, rng: Random) -> Image:
    return sharpened(source.any(rng), rng)


def _denoised(source: Source, rng: Random) -> Image:
    return denoised(source.any(rng), rng)


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
        return noisy(image, log_uniform(rng, 0.003, 0.1), rng)
    if change == 1:
        return image + np.float32(rng.uniform(-0.15, 0.15))
    if change == 2:
        middle = np.float32(0.5)
        return middle + np.float32(rng.uniform(0.6, 1.4)) * (image - middle)
    if change == 3:
        return moved(image, 1.5, 5.0, 0.05, rng)
    return sharpened(image, rng) if change == 4 else denoised(image, rng)
