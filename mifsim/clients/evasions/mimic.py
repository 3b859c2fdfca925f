"""The evasion of an attacker that knows which features a detector of unnatural images compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mifsim.clients.attackers.latent import Whitening, auxiliary_images
from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.evasions.altered import send_altered
from mifsim.clients.evasions.filtered import smoothed
from mifsim.clients.evasions.nearest import NearestImages
from mifsim.clients.protocol import ClientGenerator, Image, ImagePool, World

Floats = npt.NDArray[np.float64]
Change = Callable[[np.float32], Image]
"""Returns an image changed by an amount from 0, not at all, to 1; pixels outside of [0, 1] are clipped afterwards."""

COMPONENTS, CENTRAL = 60, 20
"""Number of principal components of the images, and how many of them `NaturalRange.average` considers."""
ROUNDS = 2
"""Number of times that all features are corrected: a correction of one can change another."""
HALVINGS = 6
"""Steps of the bisections that find the smallest change."""
_MOST_CONTRAST = np.float32(0.9)


class Mimic(Evasion):
    """Evade features of single images: change each image until its features are like those of natural images.

    The attacker knows the features of the detector ``evidence``: the distance from the mean image along the first
    principal components, the noise, and the share of the image outside of the principal components. It does not know
    the server's own images, and measures the features with its auxiliary images instead. Images are smoothed or
    get more contrast against noise, and their coordinates or the rest are moved towards those of the nearest auxiliary
    image, each as little as necessary. This does not hide similar queries.

    References
    ----------
    The adaptive attacker of Carlini and Wagner, *Adversarial Examples Are Not Easily Detected* (2017), adds the
    detector to its cost. Here the features are constraints, so that attacks without gradients can obey them too.
    """

    main: ClassVar[str | None] = "share"

    share: float = Field(
        0.25,
        gt=0,
        lt=0.5,
        description="share of the auxiliary images whose feature is less natural than that of the copy; the larger, "
        "the more the copy changes",
    )

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack; see `Evasion.run`."""
        natural = NaturalRange.of(world.pool, world.shape, self.share)
        return (yield from send_altered(attack, world, rng, lambda image, rng: natural.nearest_to(image)))


@dataclass(frozen=True)
class NaturalRange:
    """The range of three features in images, and the changes that bring an image into it.

    Attributes
    ----------
    whitening : Whitening
        Principal components of the images.
    least_average, most_noisy, least_smooth : float
        Bounds of the features.
    search : NearestImages
        Search among the images that are within all bounds.
    """

    whitening: Whitening
    least_average: float
    most_noisy: float
    least_smooth: float
    search: NearestImages

    @classmethod
    def of(cls, pool: ImagePool, shape: tuple[int, ...], share: float) -> NaturalRange:
        """Return the range of a pool's images (see `auxiliary_images`); that of the last pool is cached."""
        global _last
        images = auxiliary_images(pool, shape)
        if _last is None or _last[0] is not images or _last[1] != share:
            _last = images, share, cls.among(images, share)
        return _last[2]

    @classmethod
    def among(cls, images: npt.NDArray[np.float32], share: float) -> NaturalRange:
        """Return the range without the given share of the images at one end of each feature."""
        rows = images.reshape(len(images), -1)
        if (rows == rows[0]).all():  # they have no principal axis
            whitening = Whitening(rows[0].astype(np.float64), np.empty((0, rows.shape[1])), np.empty(0))
        else:
            whitening = Whitening.fit(rows, COMPONENTS)
        found = np.array([[feature(image, whitening) for feature in FEATURES] for image in images])
        low, high = np.quantile(found, share, axis=0), np.quantile(found, 1 - share, axis=0)
        bounds = float(low[0]), float(high[1]), float(low[2])
        inside = (found[:, 0] >= bounds[0]) & (found[:, 1] <= bounds[1]) & (found[:, 2] >= bounds[2])
        chosen = images[inside] if inside.any() else images
        return cls(whitening, *bounds, NearestImages.among(np.ascontiguousarray(chosen)))

    def nearest_to(self, image: Image) -> Image:
        """Return a similar image whose features are within the bounds, or closer to them if that is not possible."""
        example = self.search.nearest(image)
        for _ in range(ROUNDS):
            for feature, changes in enumerate((self._less_average, self._less_noisy, self._less_smooth)):
                if not self._within(image, feature):
                    image = self._changed(image, feature, [*changes(image, example), _towards(image, example)])
        return image

    def _less_average(self, image: Image, example: Image) -> list[Change]:
        return [
            _towards(image, self._joined(split(example, self.whitening)[0], split(image, self.whitening)[1], image))
        ]

    def _less_smooth(self, image: Image, example: Image) -> list[Change]:
        return [
            _towards(image, self._joined(split(image, self.whitening)[0], split(example, self.whitening)[1], image))
        ]

    def _less_noisy(self, image: Image, example: Image) -> list[Change]:
        # The second one removes noise from dark and bright areas, which smoothing only reduces.
        return [_towards(image, smoothed(image, 1.0)), lambda share: (image - share / 2) / (1 - share * _MOST_CONTRAST)]

    def _changed(self, image: Image, feature: int, changes: Sequence[Change]) -> Image:
        """Return the image after the smallest amount of the first change that brings the feature within its bound."""
        for change in changes:

            def at(share: float, change: Change = change) -> Image:
                return np.clip(change(np.float32(share)), np.float32(0), np.float32(1)).astype(np.float32, copy=False)

            if self._within(at(1.0), feature):
                break
        return at(_smallest(lambda share: self._within(at(share), feature)))

    def _joined(self, coordinates: Floats, rest: Floats, like: Image) -> Image:
        pixels = self.whitening.mean + np.einsum("k,kp->p", coordinates, self.whitening.axes) + rest
        joined: Image = pixels.astype(np.float32).reshape(like.shape)
        return joined

    def _within(self, image: Image, feature: int) -> bool:
        value = FEATURES[feature](image, self.whitening)
        bound = (self.least_average, self.most_noisy, self.least_smooth)[feature]
        return value <= bound if feature == 1 else value >= bound


_last: tuple[npt.NDArray[np.float32], float, NaturalRange] | None = None


def _towards(image: Image, target: Image) -> Change:
    """Return the change that moves an image to a target."""
    return lambda share: image + share * (target - image)


def _smallest(holds: Callable[[float], bool]) -> float:
    """Return about the smallest number in [0, 1] at which a condition holds, by bisection; 1 if it does not hold."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def split(image: Image, whitening: Whitening) -> tuple[Floats, Floats]:
    """Return the coordinates of an image along principal axes, shape (k,), and the rest of its pixels, shape (p,)."""
    centred = _centred(image, whitening)
    coordinates = _along(centred, whitening.axes)
    return coordinates, centred - np.einsum("k,kp->p", coordinates, whitening.axes)


def _centred(image: Image, whitening: Whitening) -> Floats:
    centred: Floats = image.reshape(-1).astype(np.float64) - whitening.mean
    return centred


def _along(centred: Floats, axes: Floats) -> Floats:
    coordinates: Floats = np.einsum("p,kp->k", centred, axes)  # not BLAS, whose last bits depend on its threads
    return coordinates


def average(image: Image, whitening: Whitening) -> float:
    """Return the norm of the first coordinates, in standard deviations; it is small for averages of many images."""
    central = _along(_centred(image, whitening), whitening.axes[:CENTRAL]) / whitening.deviations[:CENTRAL]
    return float(np.sqrt((central**2).sum()))


def noisy(image: Image, whitening: Whitening) -> float:
    """Return an estimate of the standard deviation of the noise (Immerkaer, 1996, with the median); 0 if tiny."""
    if min(image.shape[:2]) < 3:
        return 0.0
    pixels = image.astype(np.float64)
    rows = pixels[:-2] + pixels[2:] - 2 * pixels[1:-1]
    response = np.abs(rows[:, :-2] + rows[:, 2:] - 2 * rows[:, 1:-1])
    return float(np.median(response) * np.sqrt(np.pi / 2) / 6)


def smooth(image: Image, whitening: Whitening) -> float:
    """Return the share of the squared distance from the mean image outside of the principal components."""
    centred = _centred(image, whitening)
    total = float((centred**2).sum())
    explained = float((_along(centred, whitening.axes) ** 2).sum())
    return max(0.0, 1.0 - explained / total) if total > 0 else 0.0


FEATURES = (average, noisy, smooth)
"""The features, in the order of the bounds of `NaturalRange`."""
