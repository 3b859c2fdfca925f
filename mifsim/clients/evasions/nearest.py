"""Search for the auxiliary image that is nearest to a query."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mifsim.clients.attackers.latent import Whitening, auxiliary_images
from mifsim.clients.protocol import Image, ImagePool

Floats = npt.NDArray[np.float64]

COMPONENTS = 64
"""Number of principal components of the bound; more exclude more images, but cost more for each."""
_RELATIVE_SLACK, _ABSOLUTE_SLACK = 1e-4, 1e-5
"""By how much a bound may exceed the distance; far above its rounding errors, also where the rest is almost 0."""


@dataclass(frozen=True)
class NearestImages:
    """Exact search for the nearest of n images, by Euclidean distance between pixels.

    Most images are excluded by a lower bound. With c the coordinates along some principal axes and r the length of the
    rest, ``|x − y|² >= |c(x) − c(y)|² + (r(x) − r(y))²``. Distances of the remaining ones are computed from the pixels,
    each on its own, so the result depends neither on the threads nor on the last bits of the axes.

    Attributes
    ----------
    images : ndarray of float32, shape (n, H, W) or (n, H, W, 3)
    """

    images: npt.NDArray[np.float32]
    _mean: Floats = field(repr=False)
    _axes: Floats = field(repr=False)
    _coordinates: Floats = field(repr=False)
    _rest: Floats = field(repr=False)

    @classmethod
    def among(cls, images: npt.NDArray[np.float32]) -> NearestImages:
        """Prepare the search among some images; the array must not change afterwards."""
        rows = images.reshape(len(images), -1)
        if (rows == rows[0]).all():  # they have no principal axis
            mean, axes = rows[0].astype(np.float64), np.empty((0, rows.shape[1]))
        else:
            whitening = Whitening.fit(rows, COMPONENTS)
            mean, axes = whitening.mean, whitening.axes
        parts = [_split(row, mean, axes) for row in rows]
        return cls(images, mean, axes, np.stack([part[0] for part in parts]), np.array([part[1] for part in parts]))

    @classmethod
    def of(cls, pool: ImagePool, shape: tuple[int, ...]) -> NearestImages:
        """Prepare the search among a pool's images (see `auxiliary_images`); that of the last pool is cached."""
        global _last
        images = auxiliary_images(pool, shape)
        if _last is None or _last.images is not images:
            _last = cls.among(images)
        return _last

    def nearest(self, image: Image) -> Image:
        """Return the nearest image; among several, the first one."""
        found: Image = self.images[self.index(image)]
        return found

    def index(self, image: Image) -> int:
        """Return the index of the nearest image; among several, of the first one."""
        row = image.reshape(-1).astype(np.float64)
        coordinates, rest = _split(row, self._mean, self._axes)
        bounds = ((self._coordinates - coordinates) ** 2).sum(axis=1) + (self._rest - rest) ** 2
        first = int(bounds.argmin())
        within = self._distances(row, np.array([first]))[0] * (1 + _RELATIVE_SLACK) + _ABSOLUTE_SLACK
        candidates = np.flatnonzero(bounds <= within)
        return int(candidates[self._distances(row, candidates).argmin()])

    def _distances(self, row: Floats, indices: npt.NDArray[np.int64]) -> Floats:
        """Return the squared distances of some images from a row of pixels."""
        rows = self.images[indices].reshape(len(indices), -1)
        return np.asarray(((rows - row) ** 2).sum(axis=1))


_last: NearestImages | None = None


def _split(row: npt.NDArray[np.floating], mean: Floats, axes: Floats) -> tuple[Floats, float]:
    """Return the coordinates of a row of pixels along the axes, and the length of the rest."""
    centred = row - mean
    coordinates: Floats = np.einsum("p,kp->k", centred, axes)  # not BLAS, whose threads cost more than they save here
    rest = float((centred**2).sum() - (coordinates**2).sum())
    return coordinates, max(rest, 0.0) ** 0.5
