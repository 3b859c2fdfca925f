"""Compiled kernels of the flag ``naturalness``: scalars of one image, and the log-odds of a boosted-tree classifier.

The classifier is trained on these scalars (`mifsim.defense.evidence.naturalness`), so training and detection compute
them with the same kernel. No kernel calls a function of the C library whose last bits differ between machines.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mifsim.defense.compiled import entry_using, inner
from mifsim.defense.evidence import count_kernels, kernels

SCALARS = (
    "average", "noisy", "smooth", "central", "middle", "outer", "mahalanobis", "distance", "mean", "deviation", "least",
    "greatest", "zeros", "dark", "bright", "concentration", "gradient", "laplacian", "sharpness", "kurtosis", "faint",
    "steepest",
)  # fmt: skip
"""Names of the scalars of an image, in the order of the array that `scalars` returns."""
BANDS = (5, 20)
"""Ends of the first two bands of principal components: 1 to 5, 6 to 20, and the rest."""
BINS = 16
"""Number of bins of the histogram."""
DEPTH = 5
"""Largest number of comparisons in a tree."""
DARK, MIDDLE, BRIGHT = 0.05, 0.5, 0.95
"""Values below the first are dark, values between the first two faint, and values above the third bright."""


SHARPEST = 1e6
"""Largest value of the scalar ``sharpness``, so that it is finite for every image."""


@inner
def _differences(pixels: Any, width: int, channels: int) -> Any:
    """Return means of squared slopes, squared Laplacians and their squares, and the steepest slope; 0 if tiny.

    Each column has its own sums, which are added at the end, so that the loop over a row is vectorised.
    """
    row = width * channels
    height = len(pixels) // row
    if height < 3 or width < 3:
        return 0.0, 0.0, 0.0, 0.0
    inside = row - 2 * channels
    columns = np.zeros((4, inside), np.float32)
    gradient, laplacian, fourth, highest = columns[0], columns[1], columns[2], columns[3]
    four = np.float32(4.0)
    for y in range(1, height - 1):
        start = y * row + channels
        here = pixels[start : start + inside]
        left = pixels[start - channels : start - channels + inside]
        right = pixels[start + channels : start + channels + inside]
        above, below = pixels[start - row : start - row + inside], pixels[start + row : start + row + inside]
        for i in range(inside):
            across, down = right[i] - left[i], below[i] - above[i]
            slope = across * across + down * down
            gradient[i] += slope
            highest[i] = max(highest[i], slope)
            response = ((left[i] + right[i]) + (above[i] + below[i])) - four * here[i]
            square = response * response
            laplacian[i] += square
            fourth[i] += square * square
    sums, steepest = np.zeros(3), np.float32(0.0)
    for i in range(inside):
        sums[0] += np.float64(gradient[i])
        sums[1] += np.float64(laplacian[i])
        sums[2] += np.float64(fourth[i])
        steepest = max(steepest, highest[i])
    sums /= (height - 2) * inside
    return sums[0], sums[1], sums[2], np.float64(np.sqrt(steepest))


@inner
def _mean_and_variance(pixels: Any) -> Any:
    """Return mean and variance of values; each has four sums, because one long sum waits for every addition."""
    size = len(pixels)
    whole = size - size % 4
    a = b = c = d = 0.0
    for i in range(0, whole, 4):
        a += np.float64(pixels[i])
        b += np.float64(pixels[i + 1])
        c += np.float64(pixels[i + 2])
        d += np.float64(pixels[i + 3])
    for i in range(whole, size):
        a += np.float64(pixels[i])
    mean = ((a + b) + (c + d)) / size
    a = b = c = d = 0.0
    for i in range(0, whole, 4):
        a += (np.float64(pixels[i]) - mean) * (np.float64(pixels[i]) - mean)
        b += (np.float64(pixels[i + 1]) - mean) * (np.float64(pixels[i + 1]) - mean)
        c += (np.float64(pixels[i + 2]) - mean) * (np.float64(pixels[i + 2]) - mean)
        d += (np.float64(pixels[i + 3]) - mean) * (np.float64(pixels[i + 3]) - mean)
    for i in range(whole, size):
        a += (np.float64(pixels[i]) - mean) * (np.float64(pixels[i]) - mean)
    return mean, ((a + b) + (c + d)) / size


@inner
def _scalars(
    pixels: Any, width: int, channels: int, deviations: Any, coordinates: Any, found: Any, total: float
) -> Any:
    """Return the scalars of an image as float32; all are finite for a valid image."""
    values = np.zeros(len(SCALARS))
    values[0:3] = found
    mahalanobis = 0.0
    for m in range(len(coordinates)):
        square = np.float64(coordinates[m]) * np.float64(coordinates[m])
        mahalanobis += square / (np.float64(deviations[m]) * np.float64(deviations[m]))
        values[3 if m < BANDS[0] else (4 if m < BANDS[1] else 5)] += square
    if total > 0.0:
        for band in range(3, 6):
            values[band] /= total
    size = len(pixels)
    values[6] = np.sqrt(mahalanobis)
    values[7] = np.sqrt(total / size)
    least, greatest = pixels[0], pixels[0]
    zeros, dark, below, bright = 0, 0, 0, 0
    for i in range(size):  # without branches, so that the loop is vectorised
        value = pixels[i]
        least, greatest = min(least, value), max(greatest, value)
        zeros += value == np.float32(0.0)
        dark += value < np.float32(DARK)
        below += value < np.float32(MIDDLE)
        bright += value > np.float32(BRIGHT)
    histogram = np.zeros(BINS, np.int64)
    for i in range(size):
        place = np.int64(pixels[i] * np.float32(BINS))
        histogram[place if place < BINS else BINS - 1] += 1
    mean, spread = _mean_and_variance(pixels)
    values[8], values[9] = mean, np.sqrt(spread)
    values[10], values[11] = least, greatest
    values[12], values[13], values[14] = zeros / size, dark / size, bright / size
    for count in histogram:
        values[15] += (count / size) * (count / size)
    gradient, laplacian, fourth, steepest = _differences(pixels, width, channels)
    values[16], values[17] = gradient, laplacian
    values[18] = min(laplacian / gradient, SHARPEST) if gradient > 0.0 else 0.0
    values[19] = fourth / (laplacian * laplacian) if laplacian > 0.0 else 0.0
    values[20], values[21] = (below - dark) / size, steepest
    return values.astype(np.float32)


@inner
def _log_odds(values: Any, split_on: Any, child: Any, threshold: Any, value: Any, roots: Any) -> Any:
    """Return the log-odds of a classifier; see `log_odds`.

    All trees are followed at once, one level after the other, without a branch: a path has not more than `DEPTH`
    comparisons, and leaves lead to themselves. This is several times as fast as one tree after the other.
    """
    nodes = roots.copy()
    for _ in range(DEPTH):
        for t in range(len(nodes)):
            node = nodes[t]
            nodes[t] = child[node] + (np.float64(values[split_on[node]]) > threshold[node])
    total = value[0]
    for node in nodes:
        total += value[node]
    return np.float32(total)


@entry_using(kernels)
def scalars(pixels: Any, width: int, channels: int, mean: Any, axes: Any, deviations: Any) -> Any:
    """Return the scalars of an image.

    Parameters
    ----------
    pixels, width, channels, mean, axes, deviations
        See `mifsim.defense.evidence.kernels.features`.

    Returns
    -------
    ndarray of float32, shape (len(SCALARS),)
        All finite.
    """
    found = np.empty(3, np.float32)
    coordinates, total = kernels.describe(pixels, width, channels, mean, axes, deviations, found)
    return _scalars(pixels, width, channels, deviations, coordinates, found, total)


# fmt: off
@entry_using(kernels)
def features_and_naturalness(
    pixels: Any, width: int, channels: int, mean: Any, axes: Any, deviations: Any,
    split_on: Any, child: Any, threshold: Any, value: Any, roots: Any, found: Any
) -> Any:
    # fmt: on
    """Compute what `mifsim.defense.evidence.kernels.features` does, and return the log-odds of the classifier, too.

    Parameters
    ----------
    pixels, width, channels, mean, axes, deviations, found
        See `mifsim.defense.evidence.kernels.features`.
    split_on, child, threshold, value, roots
        See `log_odds`.

    Returns
    -------
    coordinates : ndarray of float32
    naturalness : float32
    """
    coordinates, total = kernels.describe(pixels, width, channels, mean, axes, deviations, found)
    values = _scalars(pixels, width, channels, deviations, coordinates, found, total)
    return coordinates, _log_odds(values, split_on, child, threshold, value, roots)


@entry_using(kernels)
def log_odds(values: Any, split_on: Any, child: Any, threshold: Any, value: Any, roots: Any) -> Any:
    """Return the log-odds that an image with these scalars is an outlier, as float32.

    Parameters
    ----------
    values : ndarray of float32, shape (len(SCALARS),)
    split_on : ndarray of int32, shape (N,)
        Scalar that each of N nodes compares; 0 for a leaf.
    child : ndarray of int32, shape (N,)
        The node for scalars up to the threshold; the node after it is for greater ones. A leaf's child is the leaf.
    threshold : ndarray of float64, shape (N,)
        Threshold of the comparison; infinite for a leaf.
    value : ndarray of float64, shape (N,)
        Log-odds that a leaf adds; 0 for other nodes. Node 0 is a leaf with the log-odds without trees.
    roots : ndarray of int32, shape (T,)
        First node of each of T trees, in the order of summation.
    """
    return _log_odds(values, split_on, child, threshold, value, roots)


# fmt: off
@entry_using(kernels, count_kernels)
def judge_with_naturalness(
    pixels: Any, width: int, channels: int, mean: Any, axes: Any, deviations: Any,
    split_on: Any, child: Any, threshold: Any, value: Any, roots: Any,
    memory: Any, size: int, place: int, squares: Any, k: int,
    counts: Any, features_of: Any, radii: Any, above: Any, leaks: Any, limits: Any
) -> Any:
    # fmt: on
    """Judge one image like `mifsim.defense.evidence.kernels.judge`, with the classifier; see `log_odds`."""
    found = np.empty(3, np.float32)
    coordinates, total = kernels.describe(pixels, width, channels, mean, axes, deviations, found)
    described = _scalars(pixels, width, channels, deviations, coordinates, found, total)
    values = np.empty(7, np.float32)
    values[1:4] = found
    values[6] = _log_odds(described, split_on, child, threshold, value, roots)
    stored = kernels.remember(coordinates, memory, size, place, squares, k, values)
    return count_kernels.update_counts(counts, values[features_of], radii, above, leaks, limits), stored
