"""Compiled kernels of L2 distances for the kinds ``osd-l2``, ``osd-pca`` and ``prada``.

A distance is computed in float64 from the differences of float32 pixels or coordinates, which is exact for equal
images. The order of each sum depends only on the shape of the images, so that a distance does not depend on the place
in the memory, on the other images or on the vector length of the machine. Results that a detector compares with its
threshold are finally rounded to float32, so that a float32 recording contains exactly the compared values.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mifsim.defense.compiled import entry, inner

_LANES = 32  # partial sums of a distance: a multiple of any machine's vector length


@inner
def _distance(x: Any, y: Any, lanes: Any) -> Any:
    """Return the L2 distance of two float32 vectors, float64."""
    lanes[:] = 0.0
    rest = len(x) % _LANES
    for start in range(0, len(x) - rest, _LANES):
        xs, ys = x[start : start + _LANES], y[start : start + _LANES]
        for i in range(_LANES):
            difference = np.float64(xs[i]) - np.float64(ys[i])
            lanes[i] += difference * difference
    xs, ys = x[len(x) - rest :], y[len(x) - rest :]
    for i in range(rest):
        difference = np.float64(xs[i]) - np.float64(ys[i])
        lanes[i] += difference * difference
    half = _LANES
    while half > 1:
        half //= 2
        for i in range(half):
            lanes[i] += lanes[i + half]
    return np.sqrt(lanes[0])


@inner
def _keep_smallest(distances: Any, smallest: Any) -> int:
    """Write the smallest distances into `smallest` in ascending order, and return their number."""
    size = 0
    for distance in distances:
        if size == len(smallest):
            if distance >= smallest[size - 1]:
                continue
            size -= 1
        place = size
        while place > 0 and smallest[place - 1] > distance:
            smallest[place] = smallest[place - 1]
            place -= 1
        smallest[place] = distance
        size += 1
    return size


@entry
def nearest_means(pixels: Any, stored: Any, start: int, size: int, ks: Any, memories: Any, means: Any) -> None:
    """Compute mean distances of an image to its nearest stored images.

    `stored` is a ring of rows, the oldest at `start`. ``means[i, j]`` receives the mean distance to the ``ks[i]``
    nearest of the last ``memories[j]`` rows, float32; NaN if there are fewer than ``ks[i]``. `ks` is ascending.
    """
    lanes = np.empty(_LANES)
    distances = np.empty(min(size, memories.max()))  # the newest first
    for lag in range(len(distances) - 1, -1, -1):  # from the oldest on, because memory is read faster upwards
        distances[lag] = _distance(pixels, stored[(start + size - 1 - lag) % len(stored)], lanes)
    smallest = np.empty(ks[-1])
    for j in range(len(memories)):
        kept = _keep_smallest(distances[: memories[j]], smallest)
        total, added = 0.0, 0
        for i in range(len(ks)):
            while added < min(ks[i], kept):  # in ascending order, so that the other ks do not change a sum
                total += smallest[added]
                added += 1
            means[i, j] = np.float32(total / ks[i]) if ks[i] <= kept else np.float32(np.nan)


@entry
def means_among(rows: Any, k: int, means: Any) -> None:
    """Compute the mean distance, float64, of each row to the `k` nearest of all rows, itself included."""
    lanes, distances, smallest = np.empty(_LANES), np.empty(len(rows)), np.empty(k)
    for i in range(len(rows)):
        for j in range(len(rows)):
            distances[j] = _distance(rows[i], rows[j], lanes)
        total = 0.0
        for value in smallest[: _keep_smallest(distances, smallest)]:
            total += value
        means[i] = total / k


@entry
def nearest(pixels: Any, stored: Any, size: int) -> Any:
    """Return the distance of an image to the nearest of the first `size` rows, float32."""
    lanes = np.empty(_LANES)
    least = np.inf
    for i in range(size):
        least = min(least, _distance(pixels, stored[i], lanes))
    return np.float32(least)


@entry
def moments(values: Any) -> Any:
    """Return the mean and the population standard deviation of float64 values, summed in their order."""
    mean = 0.0
    for value in values:
        mean += value
    mean /= len(values)
    variance = 0.0
    for value in values:
        variance += (value - mean) * (value - mean)
    return mean, np.sqrt(variance / len(values))
