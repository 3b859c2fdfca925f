"""Compiled kernels of the kind ``evidence``: the features of an image, and distances to earlier queries.

Live detector and recorder call the same kernels, and every sum has a fixed order. A feature is computed in float32 or
float64 and finally rounded to float32. The detector compares the float32 value, converted to float64, with a radius, so
a recording contains exactly the compared values.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mifsim.defense.compiled import entry, entry_using, inner
from mifsim.defense.evidence import count_kernels

NEAR = 30
"""Number of principal components in which queries are compared with each other."""
CENTRAL = 20
"""Number of principal components of the feature ``average``."""
NEAREST = 10
"""Largest number of nearest earlier queries that are considered."""

_NOISE = (np.pi / 2.0) ** 0.5 / 6.0
"""Factor from the mean of the absolute responses to the standard deviation of white noise (Immerkaer, 1996)."""


@inner
def _kth_smallest(values: Any, k: int) -> Any:
    """Return the k-th smallest of non-negative float32 values, from 0.

    Non-negative floats have the order of their bits, so a bisection over 31 bits finds the value. Each step is one
    vectorised count, which is faster than a selection by comparisons with their unpredictable branches.
    """
    bits = values.view(np.int32)
    low, high = np.int32(0), np.int32(0x7F800000)  # 0 and infinity
    while low < high:
        middle = low + (high - low) // np.int32(2)
        below = 0
        for i in range(len(bits)):
            below += bits[i] <= middle
        if below > k:
            high = np.int32(middle)
        else:
            low = np.int32(middle + 1)
    return np.array([low], np.int32).view(np.float32)[0]


@inner
def _noise(pixels: Any, width: int, channels: int) -> Any:
    """Return the noise level of an image, robust against edges, from its Laplacian differences; 0 for tiny images."""
    row = width * channels
    height = len(pixels) // row
    if height < 3 or width < 3:
        return np.float32(0.0)
    inside = row - 2 * channels
    found = np.empty((height - 2) * inside, np.float32)
    vertical = np.empty(row, np.float32)
    left, middle = vertical[:inside], vertical[channels : channels + inside]
    right = vertical[2 * channels : 2 * channels + inside]
    two = np.float32(2.0)
    for y in range(height - 2):
        start = y * row
        above, here = pixels[start : start + row], pixels[start + row : start + 2 * row]
        below = pixels[start + 2 * row : start + 3 * row]
        for i in range(row):
            vertical[i] = (above[i] + below[i]) - two * here[i]
        responses = found[y * inside : (y + 1) * inside]
        for i in range(inside):
            responses[i] = abs((left[i] + right[i]) - two * middle[i])
    return np.float32(_kth_smallest(found, (len(found) - 1) // 2) * _NOISE)


@inner
def describe(pixels: Any, width: int, channels: int, mean: Any, axes: Any, deviations: Any, found: Any) -> Any:
    """Compute the features of an image; return its coordinates, and its squared distance from the mean image."""
    size = axes.shape[1]
    coordinates = np.zeros(size, np.float32)
    total = 0.0
    whole = len(pixels) - len(pixels) % 4
    for j in range(0, whole, 4):  # four pixels at a time, added one after the other
        a, b = pixels[j] - mean[j], pixels[j + 1] - mean[j + 1]
        c, d = pixels[j + 2] - mean[j + 2], pixels[j + 3] - mean[j + 3]
        total += np.float64(a) * np.float64(a) + np.float64(b) * np.float64(b)
        total += np.float64(c) * np.float64(c) + np.float64(d) * np.float64(d)
        of_a, of_b, of_c, of_d = axes[j], axes[j + 1], axes[j + 2], axes[j + 3]
        for m in range(size):
            coordinates[m] = (((coordinates[m] + a * of_a[m]) + b * of_b[m]) + c * of_c[m]) + d * of_d[m]
    for j in range(whole, len(pixels)):
        a = pixels[j] - mean[j]
        total += np.float64(a) * np.float64(a)
        for m in range(size):
            coordinates[m] += a * axes[j, m]
    central = 0.0
    explained = 0.0
    for m in range(size):
        square = np.float64(coordinates[m]) * np.float64(coordinates[m])
        explained += square
        if m < CENTRAL:
            central += square / (np.float64(deviations[m]) * np.float64(deviations[m]))
    found[0] = np.float32(np.sqrt(central))
    found[1] = _noise(pixels, width, channels)
    # The mean image itself has no residual.
    found[2] = np.float32(max(0.0, 1.0 - explained / total)) if total > 0.0 else np.float32(0.0)
    return coordinates, total


@entry
def features(pixels: Any, width: int, channels: int, mean: Any, axes: Any, deviations: Any, found: Any) -> Any:
    """Compute the coordinates of an image, and its features ``average``, ``noisy`` and ``smooth``.

    Parameters
    ----------
    pixels : ndarray of float32, shape (d,)
    width, channels : int
    mean : ndarray of float32, shape (d,)
    axes : ndarray of float32, shape (d, M)
        One column for each principal component.
    deviations : ndarray of float32, shape (M,)
    found : ndarray of float32, shape (3,)
        Filled with the features.

    Returns
    -------
    ndarray of float32, shape (M,)
        The coordinates.
    """
    return describe(pixels, width, channels, mean, axes, deviations, found)[0]


@inner
def _smallest_squares(coordinates: Any, memory: Any, size: int, squares: Any, least: Any) -> None:
    """Compute the squares of the distances to the nearest earlier queries, ascending; infinite if there are fewer."""
    sums = squares[:size]
    sums[:] = np.float32(0.0)
    for m in range(len(memory)):
        column, value = memory[m, :size], coordinates[m]
        for i in range(size):
            difference = column[i] - value
            sums[i] += difference * difference
    least[:] = np.float32(np.inf)
    for i in range(size):
        square = sums[i]
        if square < least[len(least) - 1]:
            place = len(least) - 1
            while place > 0 and least[place - 1] > square:
                least[place] = least[place - 1]
                place -= 1
            least[place] = square


@entry
def mean_distance(coordinates: Any, memory: Any, size: int, squares: Any, least: Any) -> Any:
    """Return the mean distance to the nearest earlier queries as float32; infinite if there are too few.

    Parameters
    ----------
    coordinates, memory, size, squares
        See `nearest`.
    least : ndarray of float32, shape (k,)
        Work space; k is the number of queries.
    """
    _smallest_squares(coordinates, memory, size, squares, least)
    total = 0.0
    for i in range(len(least)):
        total += np.sqrt(np.float64(least[i]))
    return np.float32(total / len(least))


@entry
def nearest(coordinates: Any, memory: Any, size: int, squares: Any, distances: Any) -> Any:
    """Compute the distances to the nearest earlier queries, and return whether one of them is equal.

    Parameters
    ----------
    coordinates : ndarray of float32
        The first C are compared.
    memory : ndarray of float32, shape (C, capacity)
        Coordinates of earlier queries, one column each, in any order.
    size : int
        Number of queries, in the first columns.
    squares : ndarray of float32, shape (capacity,)
        Work space.
    distances : ndarray of float32, shape (NEAREST,)
        Filled with the smallest distances in ascending order; infinite where there are fewer queries. All are infinite
        if an earlier query is equal: exact repeats are counted separately.
    """
    _smallest_squares(coordinates, memory, size, squares, distances)
    repeated = distances[0] == np.float32(0.0)
    for i in range(NEAREST):
        distances[i] = np.float32(np.inf) if repeated else np.sqrt(distances[i])
    return repeated


@inner
def remember(coordinates: Any, memory: Any, size: int, place: int, squares: Any, k: int, values: Any) -> bool:
    """Compare a query with the earlier ones, and store it in column `place` unless it repeats one of them.

    Fills in the values of ``neighbours``, ``repeats`` and ``queries``, and returns whether the query was stored.
    """
    distances = np.empty(NEAREST, np.float32)
    repeated = nearest(coordinates, memory, size, squares, distances)
    if not repeated:
        memory[:, place] = coordinates[: len(memory)]
    values[0] = distances[k - 1]
    values[4] = np.float32(1.0) if repeated else np.float32(0.0)
    values[5] = np.float32(1.0)
    return not repeated


# fmt: off
@entry_using(count_kernels)
def judge(
    pixels: Any, width: int, channels: int, mean: Any, axes: Any, deviations: Any,
    memory: Any, size: int, place: int, squares: Any, k: int,
    counts: Any, features_of: Any, radii: Any, above: Any, leaks: Any, limits: Any
) -> Any:
    # fmt: on
    """Judge one image: update the memory and the counts.

    Parameters
    ----------
    pixels, width, channels, mean, axes, deviations
        See `features`.
    memory, size, squares
        See `nearest`. A query that repeats none is stored in column `place`.
    k : int
        Which nearest query is the feature ``neighbours``, from 1.
    counts : ndarray of float64, shape (F,)
        The count of each of F flags; updated.
    features_of : ndarray of int64, shape (F,)
        Index of each flag's feature in `mifsim.defense.evidence.flags.FLAGS`.
    radii, above, leaks, limits
        See `mifsim.defense.evidence.count_kernels.follow`.

    Returns
    -------
    share : float
        The largest share of a limit that a count has.
    stored : bool
        Whether the query was stored.
    """
    found = np.empty(3, np.float32)
    coordinates = describe(pixels, width, channels, mean, axes, deviations, found)[0]
    values = np.empty(7, np.float32)
    values[6] = np.float32(0.0)
    values[1:4] = found
    stored = remember(coordinates, memory, size, place, squares, k, values)
    return count_kernels.update_counts(counts, values[features_of], radii, above, leaks, limits), stored
