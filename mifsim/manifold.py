"""Precision, recall, density and coverage of a class, from balls around points that reach to their neighbours.

Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models"; Naeem et al. 2020,
"Reliable Fidelity and Diversity Metrics for Generative Models".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

Floats = npt.NDArray[np.float64]

NEIGHBOURS = 5
"""The k of all four, as in the authors' code; of n points at most n − 1."""


def radii(points: Floats, k: int) -> Floats:
    """Return the distance of each of n points to its k-th nearest other point, shape (n,), for 1 <= k < n.

    Examples
    --------
    >>> radii(np.array([[0.0], [1.0], [3.0]]), 1)
    array([1., 1., 2.])
    """
    distances = cdist(points, points)
    # The point itself is the nearest one. Copies of it are other points, at distance 0.
    return np.asarray(np.partition(distances, k, axis=1)[:, k])


@dataclass(frozen=True)
class ClassManifold:
    """One class: which of its n private images' and m reconstructions' balls contain which points.

    The ball of a point has the distance to its k-th nearest other point of the same set as radius, and is open, as in
    the authors' code. So of a set compared with itself, density and coverage are 1.

    Attributes
    ----------
    inside : ndarray of bool, shape (n, m)
        Whether the ball of private image i contains reconstruction j.
    around : ndarray of bool, shape (n, m)
        Whether the ball of reconstruction j contains private image i.
    neighbours, recall_neighbours : int
        The k of the private images and of the reconstructions: `NEIGHBOURS`, or one less than there are; 0: undefined.
    """

    inside: npt.NDArray[np.bool_]
    around: npt.NDArray[np.bool_]
    neighbours: int
    recall_neighbours: int

    @classmethod
    def of(cls, private: Floats, reconstructions: Floats, k: int = NEIGHBOURS) -> ClassManifold:
        """Compare the features of n private images (n, d) and m reconstructions (m, d) of a class."""
        distances = cdist(private, reconstructions)
        real, made = (min(k, len(points) - 1) for points in (private, reconstructions))
        inside = distances < radii(private, real)[:, None] if real else np.zeros(distances.shape, np.bool_)
        around = distances < radii(reconstructions, made) if made else np.zeros(distances.shape, np.bool_)
        return cls(inside, around, real, made)

    @property
    def precise(self) -> npt.NDArray[np.bool_]:
        """Whether each reconstruction is in the ball of a private image; its mean is the precision, shape (m,)."""
        return np.asarray(self.inside.any(axis=0))

    @property
    def densities(self) -> Floats:
        """Number of private images' balls around each reconstruction, divided by k; its mean is the density."""
        return np.asarray(self.inside.sum(axis=0) / max(1, self.neighbours))

    @property
    def recall(self) -> float:
        """Share of the private images that are in the ball of a reconstruction."""
        return float(self.around.any(axis=1).mean()) if self.recall_neighbours else math.nan

    @property
    def coverage(self) -> float:
        """Share of the private images whose ball contains a reconstruction."""
        return float(self.inside.any(axis=1).mean()) if self.neighbours else math.nan
