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
maps per channel for the windowed forms. In the maps, a float32 mean would be too inaccurate (in a bright window with
constant values, the covariance is a small difference of numbers near 1 and is compared with C2), so means are
fixed-point int32 numbers in steps of 2**-32. Contrasts are float32, rounded down: the similarity of equal images is
then 1 or slightly larger, and values above 1 are clipped to 1.

Maps are as wide as the image. Their last ``window - 1`` columns are windows that continue in the next row. They are
computed but not counted, because one long loop over all rows is faster than a short loop per row. The speed, about 1 ns
per pixel and pair, is limited by float64 additions and conversions and by loads across cache lines, not by the
division. (Fused multiply-add would be 5% faster, but the results would differ between machines.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mifsim.defense.compiled import entry, inner

GLOBAL, UNIFORM, GAUSSIAN = 0, 1, 2

C1 = 0.01**2
C2 = 0.03**2

_ROOT2 = 2.0**0.5
_STEPS = 2.0**32 - 2.0  # fixed-point steps from a mean of 0 to a mean of 1, all of int32
_DOWN = 1.0 - 2.0**-24  # this factor turns rounding to the nearest float32 into rounding down
_NARROW = 48  # pixels
_LANES = 64  # partial sums of a reduction: a multiple of any machine's vector length

_g = np.exp(-0.5 * (np.arange(6) / 1.5) ** 2)  # sigma 1.5, truncated at 3.5 sigma; from the centre outwards
_G0, _G1, _G2, _G3, _G4, _G5 = (float(w) for w in _g / (2.0 * _g.sum() - _g[0]))


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


# The windowed forms: a vertical pass over all columns, then a horizontal pass that also evaluates Eq. (1).


@inner
def _down_uniform(products: Any, width: int, sums: Any) -> None:
    n, w = len(sums), width
    if w < _NARROW:  # rows are too short for efficient vector loops: 6 additions in one long loop
        a, b, c, d = products[:n], products[w : w + n], products[2 * w : 2 * w + n], products[3 * w : 3 * w + n]
        e, f, g = products[4 * w : 4 * w + n], products[5 * w : 5 * w + n], products[6 * w : 6 * w + n]
        for j in range(n):
            sums[j] = ((a[j] + b[j]) + (c[j] + d[j])) + ((e[j] + f[j]) + g[j])
        return
    sums[:w] = 0.0
    for start in range(0, 7 * w, w):
        for j in range(w):
            sums[j] += products[start + j]
    for start in range(w, n, w):  # 2 additions: add the row that enters the window, subtract the row that leaves it
        above, here = sums[start - w : start], sums[start : start + w]
        leaving, entering = products[start - w : start], products[start + 6 * w : start + 7 * w]
        for j in range(w):
            here[j] = above[j] + (entering[j] - leaving[j])


@inner
def _across_uniform(s: Any, j: int) -> Any:
    return ((s[j] + s[j + 1]) + (s[j + 2] + s[j + 3])) + ((s[j + 4] + s[j + 5]) + s[j + 6])


@inner
def _down_gaussian(products: Any, width: int, sums: Any) -> None:
    n, w = len(sums), width
    a, b, c = products[:n], products[w : w + n], products[2 * w : 2 * w + n]
    d, e, f = products[3 * w : 3 * w + n], products[4 * w : 4 * w + n], products[5 * w : 5 * w + n]
    g, h, i = products[6 * w : 6 * w + n], products[7 * w : 7 * w + n], products[8 * w : 8 * w + n]
    k, m = products[9 * w : 9 * w + n], products[10 * w : 10 * w + n]
    for j in range(n):
        near = (_G0 * f[j] + _G1 * (e[j] + g[j])) + (_G2 * (d[j] + h[j]) + _G3 * (c[j] + i[j]))
        sums[j] = near + (_G4 * (b[j] + k[j]) + _G5 * (a[j] + m[j]))


@inner
def _across_gaussian(s: Any, j: int) -> Any:
    near = _G0 * s[j + 5] + _G1 * (s[j + 4] + s[j + 6])
    middle = _G2 * (s[j + 3] + s[j + 7]) + _G3 * (s[j + 2] + s[j + 8])
    return (near + middle) + (_G4 * (s[j + 1] + s[j + 9]) + _G5 * (s[j] + s[j + 10]))


@inner
def _root2_mean(fixed: int) -> Any:
    """Return sqrt(2) times the mean that a fixed-point number represents; the product of two is 2 m_x m_y."""
    return fixed * (_ROOT2 / _STEPS) + _ROOT2 / 2.0


def _windowed(down: Any, across: Any, window: int, weight: float, correction: float) -> tuple[Any, Any]:
    """Return the two kernels of a windowed form: one computes means and contrasts, the other compares two images.

    `down` and `across` are the vertical and the horizontal pass over a square of side `window`. `weight` times the sum
    over a window is its mean. `correction` is a factor of the covariance: N / (N - 1) for the sample covariance.
    """
    gain = 2.0 * correction * weight

    @inner
    def contrast_of(total: Any, twice_means: Any) -> Any:
        return (total * gain + C2) - twice_means * correction

    @inner
    def describe(planes: Any, means: Any, contrasts: Any, width: int, scratch: Any) -> None:
        products, sums, _, _ = scratch
        for c in range(len(planes)):
            x, mean, contrast = planes[c], means[c], contrasts[c]
            places = len(mean) - window + 1
            for j in range(len(x)):
                products[j] = np.float64(x[j])
            down(products, width, sums)
            for j in range(places):
                mean[j] = np.int32(np.floor((across(sums, j) * weight - 0.5) * _STEPS + 0.5))
            for j in range(len(x)):
                products[j] = np.float64(x[j]) * np.float64(x[j])
            down(products, width, sums)
            for j in range(places):
                r = _root2_mean(mean[j])
                contrast[j] = np.float32(contrast_of(across(sums, j), r * r) * _DOWN)

    @inner
    def compare(planes: Any, contrasts: Any, roots: Any, other: Any, width: int, scratch: Any) -> Any:
        products, sums, terms, columns = scratch
        counted = width - window + 1
        terms[len(terms) - window + 1 :] = 0.0  # not set below, but added to columns that are not counted
        total = 0.0
        for c in range(len(planes)):
            x, x_contrast, x_root = planes[c], contrasts[c], roots[c]
            y, y_contrast, y_mean = other[0][c], other[2][c], other[1][c]
            for j in range(len(x)):
                products[j] = np.float64(x[j]) * np.float64(y[j])
            down(products, width, sums)
            for j in range(len(terms) - window + 1):
                r = _root2_mean(y_mean[j])
                both = x_root[j] * r
                contrast = contrast_of(across(sums, j), both)
                spread = np.float64(x_contrast[j]) + np.float64(y_contrast[j])
                lights = (x_root[j] * x_root[j] + r * r) + 2.0 * C1
                terms[j] = (both + C1) * contrast / (lights * spread)
            columns[:] = 0.0
            for start in range(0, len(terms), width):
                row = terms[start : start + width]
                for j in range(width):
                    columns[j] += row[j]
            for j in range(counted):
                total += columns[j]
        return 4.0 * total / (len(planes) * (len(terms) // width) * counted)

    return describe, compare


_describe_uniform, _compare_uniform = _windowed(_down_uniform, _across_uniform, 7, 1.0 / 49.0, 49.0 / 48.0)
_describe_gaussian, _compare_gaussian = _windowed(_down_gaussian, _across_gaussian, 11, 1.0, 1.0)


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
        _describe_uniform(planes, means, contrasts, width, scratch)
    else:
        _describe_gaussian(planes, means, contrasts, width, scratch)


@inner
def _take_roots(means: Any, roots: Any) -> None:
    """Compute the roots of an image's means, once for all its comparisons."""
    if means.ndim == 2:
        for c in range(len(roots)):
            root, mean = roots[c], means[c]
            for j in range(len(mean)):
                root[j] = _root2_mean(mean[j])


@inner
def _compare(
    form: int, planes: Any, means: Any, contrasts: Any, roots: Any, other: Any, width: int, scratch: Any
) -> Any:
    """Return the SSIM of two images as float32, clipped to [-1, 1]."""
    if means.ndim == 1:
        value = _compare_global(planes, means, contrasts, other, scratch)
    elif form == UNIFORM:
        value = _compare_uniform(planes, contrasts, roots, other, width, scratch)
    else:
        value = _compare_gaussian(planes, contrasts, roots, other, width, scratch)
    return np.float32(min(1.0, max(-1.0, value)))


# A ring buffer (planes, means, contrasts, described, hashes) contains `size` images, the oldest at `start`. The next
# image is written to (start + size) modulo the capacity, which is the oldest image if the buffer is full. The caller
# updates start and size.


# fmt: off
@entry
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


# fmt: off
@entry
def judge(
    form: int, t_ssim: float, t_hash: float, l_sp: int, per_query: bool, count: int,
    planes: Any, width: int, hash_: float,
    ring_planes: Any, ring_means: Any, ring_contrasts: Any, ring_described: Any, ring_hashes: Any,
    start: int, size: int
) -> int:
    # fmt: on
    """Run lines 4 to 12 of Algorithm 2: return the new count, and enqueue the image if the count is below `l_sp`.

    A similarity is computed only if the hashes are close. The order of the two conditions does not change the result.
    """
    means, contrasts = np.empty_like(ring_means[0]), np.empty_like(ring_contrasts[0])
    roots, scratch = _scratch_space(means, planes.shape[1], width)
    described = False
    for age in range(size):
        i = (start + age) % len(ring_planes)
        if abs(ring_hashes[i] - hash_) < t_hash:
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
                count += 1
                if count >= l_sp:
                    return count
                if per_query:
                    break
    i = (start + size) % len(ring_planes)
    ring_planes[i] = planes
    ring_hashes[i] = hash_
    ring_described[i] = described
    if described:
        ring_means[i] = means
        ring_contrasts[i] = contrasts
    return count
