"""Compiled kernels of SSIM and Algorithm 2.

Two rules make the verdicts of a filter reproducible from a recording, bit by bit:

* A similarity is computed in float64 and finally rounded to float32. The filter compares the float32 value, converted
  to float64, with its threshold. Therefore a float32 recording contains exactly the compared values.
* A hash is a float64 number, and the gap of two hashes is ``abs(h1 - h2)`` in float64.

The similarity of a pair of images depends only on the pair: the order of each sum depends only on the shape of the
images. The position in the buffer, the other images and the vector length of the machine do not change any bit.

Eq. (1) is written with ``l(x, y) = 2 m_x m_y + C1`` and ``c(x, y) = 2 s_xy + C2``, where m is a mean and s a
covariance::

    SSIM(x, y) = 4 l(x, y) c(x, y) / ((l(x, x) + l(y, y)) (c(x, x) + c(y, y)))

The mean and the contrast c(x, x) of each image are cached: two float64 numbers per channel for the global form, two
maps per channel for the windowed forms (see `mifsim.defense.ssim_hash.windowed`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mifsim.defense.compiled import entry, entry_using, inner
from mifsim.defense.ssim_hash import windowed
from mifsim.defense.ssim_hash.windowed import (
    C1,
    C2,
    compare_gaussian,
    compare_uniform,
    describe_gaussian,
    describe_uniform,
    root2_mean,
)

GLOBAL, UNIFORM, GAUSSIAN = 0, 1, 2

_LANES = 64  # partial sums of a reduction: a multiple of any machine's vector length

# The kernels compare tuples (planes, means, contrasts) with one row or number per channel. Means and contrasts of an
# image are computed at its first comparison, because most images are never compared if hashes rarely match.
#
# Means are a vector in the global form and a matrix in the windowed forms. numba evaluates a condition on an argument's
# ndim at compile time, so each form compiles only its own branch.


@inner
def _dot(x: Any, y: Any, lanes: Any) -> Any:
    """Return the dot product of two float32 vectors in float64, in which each product is exact."""
    lanes[:] = 0.0
    rest = len(x) % _LANES
    for start in range(0, len(x) - rest, _LANES):
        xs, ys = x[start : start + _LANES], y[start : start + _LANES]
        for i in range(_LANES):
            lanes[i] += np.float64(xs[i]) * np.float64(ys[i])
    xs, ys = x[len(x) - rest :], y[len(x) - rest :]
    for i in range(rest):
        lanes[i] += np.float64(xs[i]) * np.float64(ys[i])
    half = _LANES
    while half > 1:
        half //= 2
        for i in range(half):
            lanes[i] += lanes[i + half]
    return lanes[0]


@inner
def _describe_global(planes: Any, means: Any, contrasts: Any, lanes: Any) -> None:
    n = planes.shape[1]
    ones = np.ones(n, np.float32)
    for c in range(len(planes)):
        mean = _dot(planes[c], ones, lanes) / n
        means[c] = mean
        contrasts[c] = 2.0 * (_dot(planes[c], planes[c], lanes) / n - mean * mean) + C2


@inner
def _compare_global(x: Any, x_means: Any, x_contrasts: Any, other: Any, lanes: Any) -> Any:
    y, y_means, y_contrasts = other
    total = 0.0
    for c in range(len(x)):
        mx, my = x_means[c], y_means[c]
        contrast = 2.0 * (_dot(x[c], y[c], lanes) / x.shape[1] - mx * my) + C2
        lights = (2.0 * (mx * mx) + C1) + (2.0 * (my * my) + C1)
        contrasts = x_contrasts[c] + y_contrasts[c]
        total += 4.0 * ((2.0 * (mx * my) + C1) * contrast / (lights * contrasts))
    return total / len(x)


@inner
def _scratch_space(means: Any, pixels: int, width: int) -> Any:
    """Return work arrays for `_take_roots` and for the other kernels."""
    if means.ndim == 1:
        return None, np.empty(_LANES)
    places = means.shape[1]
    return np.empty(means.shape), (np.empty(pixels), np.empty(places), np.empty(places), np.empty(width))


@inner
def _describe(form: int, planes: Any, means: Any, contrasts: Any, width: int, scratch: Any) -> None:
    """Compute the means and contrasts of an image."""
    if means.ndim == 1:
        _describe_global(planes, means, contrasts, scratch)
    elif form == UNIFORM:
        describe_uniform(planes, means, contrasts, width, scratch)
    else:
        describe_gaussian(planes, means, contrasts, width, scratch)


@inner
def _take_roots(means: Any, roots: Any) -> None:
    """Compute the roots of an image's means, once for all its comparisons."""
    if means.ndim == 2:
        for c in range(len(roots)):
            root, mean = roots[c], means[c]
            for j in range(len(mean)):
                root[j] = root2_mean(mean[j])


@inner
def _compare(
    form: int, planes: Any, means: Any, contrasts: Any, roots: Any, other: Any, width: int, scratch: Any
) -> Any:
    """Return the SSIM of two images as float32, clipped to [-1, 1]."""
    if means.ndim == 1:
        value = _compare_global(planes, means, contrasts, other, scratch)
    elif form == UNIFORM:
        value = compare_uniform(planes, contrasts, roots, other, width, scratch)
    else:
        value = compare_gaussian(planes, contrasts, roots, other, width, scratch)
    return np.float32(min(1.0, max(-1.0, value)))


# A ring buffer (planes, means, contrasts, described, hashes) contains `size` images, the oldest at `start`. The next
# image is written to (start + size) modulo the capacity, which is the oldest image if the buffer is full. The caller
# updates start and size.


# fmt: off
@entry_using(windowed)
def compare_all(
    form: int, planes: Any, width: int,
    ring_planes: Any, ring_means: Any, ring_contrasts: Any, ring_described: Any, start: int, size: int,
    similarities: Any
) -> None:
    # fmt: on
    """Compare an image with all buffered images, the newest first, and store its means and contrasts.

    The caller stores its planes and hash after all forms have been compared, because they overwrite the oldest image.
    """
    means, contrasts = np.empty_like(ring_means[0]), np.empty_like(ring_contrasts[0])
    roots, scratch = _scratch_space(means, planes.shape[1], width)
    _describe(form, planes, means, contrasts, width, scratch)
    _take_roots(means, roots)
    for lag in range(size):
        i = (start + size - 1 - lag) % len(ring_planes)
        other = (ring_planes[i], ring_means[i], ring_contrasts[i])
        if not ring_described[i]:
            _describe(form, ring_planes[i], ring_means[i], ring_contrasts[i], width, scratch)
            ring_described[i] = True
        similarities[lag] = _compare(form, planes, means, contrasts, roots, other, width, scratch)
    i = (start + size) % len(ring_planes)
    ring_means[i] = means
    ring_contrasts[i] = contrasts
    ring_described[i] = True


@inner
def _equal(x: Any, y: Any) -> bool:
    """Return whether the planes of two images of the same shape contain equal values."""
    for c in range(len(x)):
        for j in range(x.shape[1]):
            if x[c, j] != y[c, j]:
                return False
    return True


@entry
def repeat_lag(planes: Any, hash_: float, ring_planes: Any, ring_hashes: Any, start: int, size: int) -> int:
    """Return the number of images from the newest equal buffered image to this one; 0 if there is none.

    Equal images have equal hashes, so few images are compared pixel by pixel.
    """
    for lag in range(1, size + 1):
        i = (start + size - lag) % len(ring_planes)
        if ring_hashes[i] == hash_ and _equal(ring_planes[i], planes):
            return lag
    return 0


@inner
def _judge_one(rule: Any, count: float, image: Any, ring: Any, work: Any) -> Any:
    """Run lines 4 to 12 of Algorithm 2 for one image; see `judge`."""
    form, t_ssim, t_hash, l_sp, per_query, leak, repeats_apart, width = rule
    planes, hash_ = image
    ring_planes, ring_means, ring_contrasts, ring_described, ring_hashes, start, size = ring
    means, contrasts, roots, scratch = work
    described = False
    matches = 0
    for age in range(size):
        i = (start + age) % len(ring_planes)
        if abs(ring_hashes[i] - hash_) < t_hash:
            if repeats_apart and ring_hashes[i] == hash_ and _equal(ring_planes[i], planes):
                continue
            other = (ring_planes[i], ring_means[i], ring_contrasts[i])
            if not ring_described[i]:
                _describe(form, ring_planes[i], ring_means[i], ring_contrasts[i], width, scratch)
                ring_described[i] = True
            if not described:
                _describe(form, planes, means, contrasts, width, scratch)
                _take_roots(means, roots)
                described = True
            value = _compare(form, planes, means, contrasts, roots, other, width, scratch)
            if np.float64(value) > t_ssim:
                matches += 1
                if (count + matches) - leak >= l_sp:
                    return np.float64(l_sp)
                if per_query:
                    break
    i = (start + size) % len(ring_planes)
    ring_planes[i] = planes
    ring_hashes[i] = hash_
    ring_described[i] = described
    if described:
        ring_means[i] = means
        ring_contrasts[i] = contrasts
    return max(0.0, (count + matches) - leak)


# fmt: off
@entry_using(windowed)
def judge(
    form: int, t_ssim: float, t_hash: float, l_sp: int, per_query: bool, leak: float, repeats_apart: bool,
    members: Any, planes: Any, width: int, hashes: Any,
    ring_planes: Any, ring_means: Any, ring_contrasts: Any, ring_described: Any, ring_hashes: Any,
    places: Any, counts: Any
) -> None:
    # fmt: on
    """Run lines 4 to 12 of Algorithm 2 for one image of each of several sessions.

    Image k, ``planes[k]`` with the hash ``hashes[k]``, belongs to the session ``s = members[k]``, whose buffer is
    ``ring_planes[s]`` and so on, with ``places[s]`` as start and size. The new count is written to ``counts[s]``. If it
    is below `l_sp`, the image is enqueued and ``places[s]`` updated.

    A similarity is computed only if the hashes are close. The order of the two conditions does not change the result.
    See `FilterConfig` for `leak` and, if `repeats_apart`, for buffered images that are equal to this one.
    """
    means, contrasts = np.empty_like(ring_means[0, 0]), np.empty_like(ring_contrasts[0, 0])
    roots, scratch = _scratch_space(means, planes.shape[2], width)
    rule = (form, t_ssim, t_hash, l_sp, per_query, leak, repeats_apart, width)
    work = (means, contrasts, roots, scratch)
    capacity = ring_planes.shape[1]
    for k in range(len(members)):
        s = members[k]
        start, size = places[s, 0], places[s, 1]
        ring = (ring_planes[s], ring_means[s], ring_contrasts[s], ring_described[s], ring_hashes[s], start, size)
        counts[s] = _judge_one(rule, counts[s], (planes[k], hashes[k]), ring, work)
        if counts[s] < l_sp:
            if size < capacity:
                places[s, 1] = size + 1
            else:
                places[s, 0] = (start + 1) % capacity
