"""SSIM and Algorithm 2, compiled.

Two rules make what a filter decides reproducible from a recorded trace, to the last bit:

* A similarity is computed in float64 and rounded to float32 at the very end; the filter compares that float32
  value, taken back to float64, with its threshold. So a trace of float32 keeps all that was compared.
* A hash is a float64 number, and the gap is ``abs(h1 - h2)`` in float64.

And the value of a pair depends on the pair alone: every sum runs in an order fixed by the image's shape.
Where an image lies in a buffer, who else is in it and how wide the machine's vectors are change no bit.

Eq. (1) is written with ``l(x, y) = 2 m_x m_y + C1`` and ``c(x, y) = 2 s_xy + C2``, m a mean and s a
covariance::

    SSIM(x, y) = 4 l(x, y) c(x, y) / ((l(x, x) + l(y, y)) (c(x, x) + c(y, y)))

What is kept of an image beside its pixels is its mean and its contrast c(x, x): two float64 numbers a
channel for the global form, a map of each for the windowed ones. There, a float32 mean would be too coarse
(in a flat bright window the covariance is a small difference of numbers near 1, held against C2), so means
are fixed-point int32 in steps of 2**-32. Contrasts are float32, rounded down: equal images come out at 1 or a
hair above, and what is above 1 is 1.

Maps are as wide as the image. Their last ``window - 1`` columns are windows that wrap around to the next
row: computed and never counted, because one long loop over all rows beats a short one for each. What bounds
the speed then, at about 1 ns a pixel and pair, are float64 additions and conversions, and loads that straddle
cache lines; the division hides behind them. (Fused multiply-add would gain 5%, and bits would differ between
machines.)
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
_DOWN = 1.0 - 2.0**-24  # makes rounding to the nearest float32 a rounding down
_NARROW = 48  # pixels
_LANES = 64  # partial sums of a reduction: a multiple of any machine's vector length

_g = np.exp(-0.5 * (np.arange(6) / 1.5) ** 2)  # sigma 1.5, cut at 3.5 sigma; from the middle outwards
_G0, _G1, _G2, _G3, _G4, _G5 = (float(w) for w in _g / (2.0 * _g.sum() - _g[0]))


# What is compared is (planes, means, contrasts), a row or a number a channel. Means and contrasts are filled in
# when an image is first compared: rarely, where hashes seldom match.
#
# Means are a vector in the global form and a matrix in the windowed ones. Where a function asks for an argument's
# ndim, numba drops the branch not taken before it compiles: each form compiles its own arithmetic only.


@inner
def _dot(x: Any, y: Any, lanes: Any) -> Any:
    """Sum of products of two float32 vectors, in float64 (where each product is exact)."""
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


# The windowed forms: a vertical pass over all columns, then a horizontal one fused with Eq. (1).


@inner
def _down_uniform(products: Any, width: int, sums: Any) -> None:
    n, w = len(sums), width
    if w < _NARROW:  # rows do not fill enough vectors to work row by row: 6 additions in one long loop
        a, b, c, d = products[:n], products[w : w + n], products[2 * w : 2 * w + n], products[3 * w : 3 * w + n]
        e, f, g = products[4 * w : 4 * w + n], products[5 * w : 5 * w + n], products[6 * w : 6 * w + n]
        for j in range(n):
            sums[j] = ((a[j] + b[j]) + (c[j] + d[j])) + ((e[j] + f[j]) + g[j])
        return
    sums[:w] = 0.0
    for start in range(0, 7 * w, w):
        for j in range(w):
            sums[j] += products[start + j]
    for start in range(w, n, w):  # 2 additions: the row that enters, less the row that leaves
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
    """sqrt(2) times the mean that an int32 stands for: the product of two is 2 m_x m_y."""
    return fixed * (_ROOT2 / _STEPS) + _ROOT2 / 2.0


def _windowed(down: Any, across: Any, window: int, weight: float, correction: float) -> tuple[Any, Any]:
    """Make the two kernels of a windowed form: one describes an image, one compares it with another.

    `down` and `across` are the vertical and the horizontal pass over a square of side `window`. `weight`
    takes the sum over a window to its mean; `correction` is the covariance's: N / (N - 1) for a sample's.
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
        terms[len(terms) - window + 1 :] = 0.0  # never set, but added to columns that are not counted
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
    """Return room for the roots of means, and scratch space for the rest."""
    if means.ndim == 1:
        return None, np.empty(_LANES)
    places = means.shape[1]
    return np.empty(means.shape), (np.empty(pixels), np.empty(places), np.empty(places), np.empty(width))


@inner
def _describe(form: int, planes: Any, means: Any, contrasts: Any, width: int, scratch: Any) -> None:
    """Fill in means and contrasts."""
    if means.ndim == 1:
        _describe_global(planes, means, contrasts, scratch)
    elif form == UNIFORM:
        _describe_uniform(planes, means, contrasts, width, scratch)
    else:
        _describe_gaussian(planes, means, contrasts, width, scratch)


@inner
def _take_roots(means: Any, roots: Any) -> None:
    """Prepare the image that is compared with many."""
    if means.ndim == 2:
        for c in range(len(roots)):
            root, mean = roots[c], means[c]
            for j in range(len(mean)):
                root[j] = _root2_mean(mean[j])


@inner
def _compare(
    form: int, planes: Any, means: Any, contrasts: Any, roots: Any, other: Any, width: int, scratch: Any
) -> Any:
    """SSIM, float32."""
    if means.ndim == 1:
        value = _compare_global(planes, means, contrasts, other, scratch)
    elif form == UNIFORM:
        value = _compare_uniform(planes, contrasts, roots, other, width, scratch)
    else:
        value = _compare_gaussian(planes, contrasts, roots, other, width, scratch)
    return np.float32(min(1.0, max(-1.0, value)))


# A ring (planes, means, contrasts, described, hashes) holds `size` images, the oldest at `start`. The next one
# goes to (start + size) modulo its capacity: the oldest's place, once it is full. The caller moves start and size.


# fmt: off
@entry
def compare_all(
    form: int, planes: Any, width: int,
    ring_planes: Any, ring_means: Any, ring_contrasts: Any, ring_described: Any, start: int, size: int,
    similarities: Any
) -> None:
    # fmt: on
    """Compare an image with all in the ring, the newest first; then keep its means and contrasts.

    Its planes and hash are for the caller to keep, once all forms have seen the image whose place they take.
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
    """Run lines 4 to 12 of Algorithm 2: return the new count, the image enqueued unless that is `l_sp`.

    A similarity is computed only where the hash is near: ``and`` commutes, so the outcome is the same.
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
