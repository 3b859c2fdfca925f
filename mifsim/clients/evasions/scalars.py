"""The scalars of the detector ``evidence``, measured by an attacker with images of its own, and a penalty on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.clients.attackers.latent import Whitening, auxiliary_images
from mifsim.clients.evasions.filtered import smoothed
from mifsim.clients.protocol import Image, ImagePool

Floats = npt.NDArray[np.float64]

COMPONENTS, CENTRAL, NEAR = 60, 20, 30
"""Number of principal components, and of those that ``average`` and ``neighbours`` consider."""
SESSION = 200
"""Number of auxiliary images that stand for the queries of an honest session."""
NAMES = ("average", "noisy", "smooth", "neighbours")
"""The scalars, in the order of all arrays here."""
_BELOW = np.array([1.0, -1.0, 1.0, 1.0])
"""1 if the detector raises its flag below a radius, -1 if above."""
_NOISE = np.sqrt(np.pi / 2) / 6
"""Factor from the median of the absolute responses to the noise level (Immerkaer, 1996)."""
LEAST_NOISE = 0.01
"""Smallest bound of ``noisy``, and smallest unit of its penalty: the images of users can be noisier."""
_LEAST_SPREAD = 1e-9
"""A smaller standard deviation is one of rounding errors."""
_DIFFERENCE = 0.01
"""Half the width of the finite difference of ``noisy``, as a share of the fine structure."""


class Measured(NamedTuple):
    """Scalars of one image, and what their gradients need.

    Attributes
    ----------
    values : ndarray of float64, shape (3,)
        ``average``, ``noisy`` and ``smooth``.
    coordinates : ndarray of float64, shape (k,)
        Coordinates along the principal axes.
    centred : ndarray of float64, shape (p,)
        The pixels minus those of the mean image.
    """

    values: Floats
    coordinates: Floats
    centred: Floats


class SentQueries:
    """The coordinates of the queries that one account sent, as the detector remembers them.

    Parameters
    ----------
    k : int
        Which nearest query is compared, from 1.
    memory : int
        Number of queries; with one more, the oldest is forgotten.
    """

    def __init__(self, k: int, memory: int) -> None:
        self._k, self._memory = k, memory
        self._rows = np.empty((0, 0))
        self._size = self._place = 0

    def nearest(self, coordinates: Floats) -> tuple[float, Floats]:
        """Return the distance to the k-th nearest query, and the vector from that query.

        The distance is infinite, and the vector 0, if there are fewer queries, or one of them is equal: the detector
        counts exact repeats apart.
        """
        near = coordinates[:NEAR]
        apart = near - self._rows[: self._size] if self._size else np.empty((0, len(near)))
        squares = np.einsum("nk,nk->n", apart, apart)
        if self._size < self._k or not squares.all():
            return np.inf, np.zeros(len(near))
        index = int(np.argpartition(squares, self._k - 1)[self._k - 1])
        return float(np.sqrt(squares[index])), apart[index]

    def add(self, coordinates: Floats) -> None:
        """Remember a query, unless it is an exact repeat."""
        near = coordinates[:NEAR]
        if not self._rows.size:
            self._rows = np.empty((self._memory, len(near)))
        if (self._rows[: self._size] == near).all(axis=1).any():
            return
        self._rows[self._place] = near
        self._size = max(self._size, self._place + 1)
        self._place = (self._place + 1) % self._memory


@dataclass(frozen=True)
class Scalars:
    """The scalars of ``evidence`` for images of one shape, with bounds that natural images obey.

    The features are those of `mifsim.defense.evidence`, fitted to other images. The penalty on a scalar is 0 within its
    bound, and beyond it the distance from the bound in standard deviations of the scalar over the auxiliary images.

    Attributes
    ----------
    whitening : Whitening
        Principal components of the auxiliary images.
    bounds, spreads : ndarray of float64, shape (4,)
        Bound and standard deviation of each scalar, in the order of `NAMES`. That of ``neighbours`` is the distance to
        the k-th nearest of `SESSION` different auxiliary images. Those of ``noisy`` are at least `LEAST_NOISE`. A
        scalar that does not differ between the images has no penalty.
    """

    whitening: Whitening
    bounds: Floats
    spreads: Floats

    @classmethod
    def of(cls, pool: ImagePool, shape: tuple[int, ...], share: float, k: int) -> Scalars:
        """Return the scalars fitted to a pool's images (see `auxiliary_images`); those of the last pool are cached."""
        global _last
        images = auxiliary_images(pool, shape)
        if _last is None or _last[0] is not images or _last[1] != (share, k):
            _last = images, (share, k), cls.among(images, share, k)
        return _last[2]

    @classmethod
    def among(cls, images: npt.NDArray[np.float32], share: float, k: int) -> Scalars:
        """Fit the scalars to images, shape (n, H, W) or (n, H, W, C); a share of them lies beyond each bound."""
        rows = images.reshape(len(images), -1)
        if (rows == rows[0]).all():  # they have no principal axis
            whitening = Whitening(rows[0].astype(np.float64), np.empty((0, rows.shape[1])), np.empty(0))
        else:
            whitening = Whitening.fit(rows, COMPONENTS)
        unbounded = cls(whitening, np.zeros(len(NAMES)), np.zeros(len(NAMES)))
        measured = [unbounded.measure(image) for image in images]
        values = np.stack([one.values for one in measured])
        chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), SESSION)).round().astype(int))
        distances = _kth_distances(np.stack([measured[index].coordinates[:NEAR] for index in chosen]), k)
        bounds = [_bound(found, share, below) for found, below in zip((*values.T, distances), _BELOW, strict=True)]
        spreads = [*values.std(axis=0), distances.std()]
        bounds[1], spreads[1] = max(bounds[1], LEAST_NOISE), max(float(spreads[1]), LEAST_NOISE)
        return cls(whitening, np.array(bounds), np.array(spreads))

    def measure(self, image: Image) -> Measured:
        """Measure an image."""
        centred = image.reshape(-1).astype(np.float64) - self.whitening.mean
        # Not BLAS, whose last bits depend on its threads.
        coordinates: Floats = np.einsum("p,kp->k", centred, self.whitening.axes)
        central = coordinates[:CENTRAL] / self.whitening.deviations[:CENTRAL]
        total = float(np.einsum("p,p->", centred, centred))
        explained = float(np.einsum("k,k->", coordinates, coordinates))
        smooth = max(0.0, 1 - explained / total) if total > 0 else 0.0
        values = np.array([np.sqrt((central**2).sum()), noise_level(image), smooth])
        return Measured(values, coordinates, centred)

    def of_image(self, measured: Measured) -> float:
        """Return the penalty of an image by itself: the sum of those on ``average``, ``noisy`` and ``smooth``."""
        return float(self._beyond(measured.values).sum())

    def of_nearness(self, distance: float) -> float:
        """Return the penalty on ``neighbours``."""
        return float(self._beyond(np.array([distance]), 3)[0])

    def gradient(self, image: Image, measured: Measured, sent: SentQueries) -> Floats:
        """Return the gradient of the whole penalty with respect to the image, shape (p,).

        That of ``noisy``, which is the median of many differences, is measured by a finite difference along the image's
        fine structure. Its other components are set to 0: single pixels determine them.
        """
        axes, deviations = self.whitening.axes, self.whitening.deviations
        distance, apart = sent.nearest(measured.coordinates)
        active = np.append(self._beyond(measured.values), self.of_nearness(distance)) > 0
        slopes = np.zeros(len(NAMES))
        slopes[active] = -_BELOW[active] / self.spreads[active]
        along = np.zeros(len(deviations))
        average, _, smooth = measured.values
        if active[0] and average > 0:
            along[:CENTRAL] += slopes[0] * measured.coordinates[:CENTRAL] / deviations[:CENTRAL] ** 2 / average
        if active[3]:
            along[:NEAR] += slopes[3] * apart / distance
        gradient = np.zeros(len(measured.centred))
        if active[1]:
            gradient += slopes[1] * _noise_gradient(image)
        total = float(np.einsum("p,p->", measured.centred, measured.centred))
        if active[2] and total > 0:
            factor = slopes[2] * 2 / total
            gradient += factor * (1 - smooth) * measured.centred
            along -= factor * measured.coordinates
        gradient += np.einsum("k,kp->p", along, axes)
        return gradient

    def _beyond(self, values: Floats, first: int = 0) -> Floats:
        """Return the penalties on some scalars, from number `first` in `NAMES`."""
        some = slice(first, first + len(values))
        with np.errstate(invalid="ignore"):  # an infinite distance
            beyond = np.maximum(0, _BELOW[some] * (self.bounds[some] - values))
        spreads = self.spreads[some]
        return np.divide(beyond, spreads, out=np.zeros(len(values)), where=spreads > _LEAST_SPREAD)


_last: tuple[npt.NDArray[np.float32], tuple[float, int], Scalars] | None = None


def _bound(values: Floats, share: float, below: float) -> float:
    return float(np.quantile(values, share if below > 0 else 1 - share))


def _kth_distances(points: Floats, k: int) -> Floats:
    """Return the distance of each point (n, d) to its k-th nearest other one; 0 if there are fewer."""
    if len(points) <= k:
        return np.zeros(len(points))
    apart = points[:, None] - points
    squares = np.einsum("nmd,nmd->nm", apart, apart)
    return np.asarray(np.sqrt(np.partition(squares, k, axis=1)[:, k]))  # number 0 is the point itself


def noise_level(image: npt.NDArray[np.floating]) -> float:
    """Return an estimate of the standard deviation of the noise, 0 for tiny images (Immerkaer, 1996; median)."""
    if min(image.shape[:2]) < 3:
        return 0.0
    rows = image[:-2] + image[2:] - 2 * image[1:-1]
    response = np.abs(rows[:, :-2] + rows[:, 2:] - 2 * rows[:, 1:-1]).reshape(-1)
    middle = (len(response) - 1) // 2
    return float(np.partition(response, middle)[middle] * _NOISE)


def _noise_gradient(image: Image) -> Floats:
    """Return the derivative of the noise level along the fine structure of an image, as a gradient, shape (p,)."""
    pixels = image.astype(np.float64)
    fine = pixels - smoothed(image, 1.0)
    squares = float((fine**2).sum())
    if not squares:
        return np.zeros(fine.size)
    ahead, behind = (noise_level(pixels + sign * _DIFFERENCE * fine) for sign in (1, -1))
    return (ahead - behind) / (2 * _DIFFERENCE) * fine.reshape(-1) / squares
