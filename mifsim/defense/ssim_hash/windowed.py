"""Compiled windowed forms of SSIM: the mean of Eq. (1) over uniform 7x7 or Gaussian 11x11 windows.

Each form has two kernels: one computes the maps of means and contrasts of an image, the other compares two images. They
are called from the entries in `mifsim.defense.ssim_hash.kernels`, which states the rules that both modules follow.

In the maps, a float32 mean would be too inaccurate (in a bright window with constant values, the covariance is a small
difference of numbers near 1 and is compared with C2), so means are fixed-point int32 numbers in steps of 2**-32.
Contrasts are float32, rounded down: the similarity of equal images is then 1 or slightly larger, and values above 1 are
clipped to 1.

Maps are as wide as the image. Their last ``window - 1`` columns are windows that continue in the next row. They are
computed but not counted, because one long loop over all rows is faster than a short loop per row. The speed, about 1 ns
per pixel and pair, is limited by float64 additions and conversions and by loads across cache lines, not by the
division. (Fused multiply-add would be 5% faster, but the results would differ between machines.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mifsim.defense.compiled import inner, inner_named

C1 = 0.01**2
C2 = 0.03**2
"""Constants of Eq. (1), for values in [0, 1]."""

_ROOT2 = 2.0**0.5
_STEPS = 2.0**32 - 2.0  # fixed-point steps from a mean of 0 to a mean of 1, all of int32
_DOWN = 1.0 - 2.0**-24  # this factor turns rounding to the nearest float32 into rounding down
_NARROW = 48  # pixels

_g = np.exp(-0.5 * (np.arange(6) / 1.5) ** 2)  # sigma 1.5, truncated at 3.5 sigma; from the centre outwards
_G0, _G1, _G2, _G3, _G4, _G5 = (float(w) for w in _g / (2.0 * _g.sum() - _g[0]))


# Each comparison is a vertical pass over all columns, then a horizontal pass that also evaluates Eq. (1).


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
def root2_mean(fixed: int) -> Any:
    """Return sqrt(2) times the mean that a fixed-point number represents; the product of two is 2 m_x m_y."""
    return fixed * (_ROOT2 / _STEPS) + _ROOT2 / 2.0


def _windowed(form: str, down: Any, across: Any, window: int, weight: float, correction: float) -> tuple[Any, Any]:
    """Return the two kernels of a windowed form: one computes means and contrasts, the other compares two images.

    `form` distinguishes the names of the compiled functions. `down` and `across` are the vertical and the horizontal
    pass over a square of side `window`. `weight` times the sum over a window is its mean. `correction` is a factor of
    the covariance: N / (N - 1) for the sample covariance.
    """
    gain = 2.0 * correction * weight

    @inner_named(f"contrast_of_{form}")
    def contrast_of(total: Any, twice_means: Any) -> Any:
        return (total * gain + C2) - twice_means * correction

    @inner_named(f"describe_{form}")
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
                r = root2_mean(mean[j])
                contrast[j] = np.float32(contrast_of(across(sums, j), r * r) * _DOWN)

    @inner_named(f"compare_{form}")
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
                r = root2_mean(y_mean[j])
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


describe_uniform, compare_uniform = _windowed("uniform", _down_uniform, _across_uniform, 7, 1.0 / 49.0, 49.0 / 48.0)
describe_gaussian, compare_gaussian = _windowed("gaussian", _down_gaussian, _across_gaussian, 11, 1.0, 1.0)
