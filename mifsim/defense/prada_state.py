"""State of PRADA: the growing set of images of each class, the distances of the queries, and their test."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

EVERY = 10
"""Number of queries from one test to the next; the first query is the first test."""
CLASS_DISTANCES = 10
"""Smallest number of distances of a class that is tested."""
DEVIATIONS = 3.0
"""Distance from the mean, in standard deviations, at which a distance is left out."""

_STATE_KEYS = {"queries", "labels", "images", "set_distances", "thresholds", "distances"}


class NormalityTest(NamedTuple):
    """Result of one test.

    Attributes
    ----------
    w : float
        The W statistic of the Shapiro-Wilk test.
    tested : int
        Number of distances from which it was computed.
    """

    w: float
    tested: int


class _ClassSet:
    """Growing set and distances of one class."""

    __slots__ = ("distances", "images", "set_distances", "size", "threshold")

    def __init__(self, pixels: int) -> None:
        self.images: npt.NDArray[np.float32] = np.empty((8, pixels), np.float32)
        self.size = 0
        self.threshold = 0.0
        self.set_distances = array("d")
        self.distances = array("d")

    def append(self, pixels: npt.NDArray[np.float32], distance: float) -> None:
        """Add an image and its distance to the growing set."""
        if self.size == len(self.images):
            self.images = np.concatenate([self.images, np.empty_like(self.images)])
        self.images[self.size] = pixels
        self.size += 1
        self.set_distances.append(distance)


class GrowingSets:
    """Growing sets of all classes, in the order of the classes' first queries."""

    def __init__(self) -> None:
        self._queries = 0
        self._classes: dict[int, _ClassSet] = {}

    def add(self, pixels: npt.NDArray[np.float32], label: int) -> float:
        """Process a query.

        Parameters
        ----------
        pixels : ndarray of float32, shape (n,)
        label : int
            The class that the model predicts.

        Returns
        -------
        float
            Distance to the nearest image of the class's growing set, a float32 value; NaN for the first query of a
            class, which opens the set.
        """
        from mifsim.defense import distance_kernels

        self._queries += 1
        found = self._classes.get(label)
        if found is None:
            found = self._classes[label] = _ClassSet(len(pixels))
            found.append(pixels, 0.0)
            return math.nan
        distance = float(distance_kernels.nearest(pixels, found.images, found.size))
        found.distances.append(distance)
        if distance > found.threshold:
            found.append(pixels, distance)
            mean, deviation = distance_kernels.moments(np.frombuffer(found.set_distances))
            found.threshold = max(found.threshold, mean - deviation)
        return distance

    def test(self, least: int = 3) -> NormalityTest | None:
        """Test the distances if it is time; otherwise, or if there are fewer than `least` (at least 3), return None."""
        if self._queries % EVERY != 1:
            return None
        from mifsim.defense import distance_kernels

        classes = [found.distances for found in self._classes.values() if len(found.distances) >= CLASS_DISTANCES]
        if sum(map(len, classes)) < least:
            return None
        pooled = np.concatenate([np.frombuffer(distances) for distances in classes])
        mean, deviation = distance_kernels.moments(pooled)
        kept = pooled[np.abs(pooled - mean) < DEVIATIONS * deviation]
        if len(kept) < least:
            return None
        from mifsim.defense.shapiro import shapiro_w

        return NormalityTest(shapiro_w(kept), len(kept))

    def savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next queries: sets only grow, so their sizes determine them."""
        queries = self._queries
        sizes = {
            label: (found.images, found.size, found.threshold, len(found.distances))
            for label, found in self._classes.items()
        }

        def undo() -> None:
            self._queries = queries
            for label in [label for label in self._classes if label not in sizes]:
                del self._classes[label]
            for label, (images, size, threshold, distances) in sizes.items():
                found = self._classes[label]
                found.images, found.size, found.threshold = images, size, threshold
                del found.set_distances[size:]
                del found.distances[distances:]

        return undo

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the state as plain values and arrays."""
        classes = self._classes.values()
        return {
            "queries": self._queries,
            "labels": list(self._classes),
            "images": [found.images[: found.size].copy() for found in classes],
            "set_distances": [np.array(found.set_distances) for found in classes],
            "thresholds": [found.threshold for found in classes],
            "distances": [np.array(found.distances) for found in classes],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], pixels: int) -> GrowingSets:
        """Return growing sets that continue from a state.

        Parameters
        ----------
        state : mapping
            Result of `to_dict`.
        pixels : int
            Number of values of an image.

        Raises
        ------
        ValueError
            If the state is incomplete, or its images have another number of values.
        """
        if set(state) != _STATE_KEYS:
            raise ValueError(f"keys of the state: {sorted(map(str, state))}; expected {', '.join(sorted(_STATE_KEYS))}")
        restored = cls()
        restored._queries = int(state["queries"])
        columns = (state[name] for name in ("labels", "images", "set_distances", "thresholds", "distances"))
        for label, images, set_distances, threshold, distances in zip(*columns, strict=True):
            if np.shape(images) != (len(set_distances), pixels) or len(set_distances) == 0:
                raise ValueError(f"images of the state: shape {np.shape(images)}; expected (n, {pixels}), n at least 1")
            found = restored._classes[int(label)] = _ClassSet(pixels)
            found.images = np.array(images, dtype=np.float32)
            found.size = len(set_distances)
            found.set_distances, found.distances = array("d", set_distances), array("d", distances)
            found.threshold = float(threshold)
        return restored
