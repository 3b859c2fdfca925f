"""Gradients from function values: finite differences along coordinates, antithetic pairs along random directions.

A value that the server withheld is NaN; the differences that contain it are set to 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def forward_differences(ahead: Floats, here: float, width: float) -> Floats:
    """Return (f(x + h e_i) − f(x)) / h for every i: the partial derivatives, with an error of order h.

    Parameters
    ----------
    ahead : ndarray, shape (n,)
        Values of f at x + h e_i.
    here : float
        The value of f at x.
    width : float
        The step h, above 0.

    Returns
    -------
    ndarray, shape (n,)
        The differences.
    """
    return _known((ahead - here) / width)


def central_differences(ahead: Floats, behind: Floats, width: float) -> Floats:
    """Return (f(x + h e_i) − f(x − h e_i)) / 2h for every i, with an error of order h²; see `forward_differences`."""
    return _known((ahead - behind) / (2 * width))


def antithetic(ahead: Floats, behind: Floats, directions: Floats, width: float) -> Floats:
    """Return the mean of (f(x + s u) − f(x − s u)) u / 2s over directions u.

    For directions with E[u uᵀ] = I (standard normal: NES; signs: SPSA, where 1 / u = u), the expectation for a linear
    function is its gradient. In general, it is the gradient of f smoothed by s u, up to terms of order s².

    Parameters
    ----------
    ahead, behind : ndarray, shape (n,)
        Values of f at x + s u and x − s u.
    directions : ndarray, shape (n, size)
        The directions u.
    width : float
        The step s, above 0.

    Returns
    -------
    ndarray, shape (size,)
        The estimate of the gradient.
    """
    return np.asarray(_known((ahead - behind) / (2 * width)) @ directions / len(directions))


def unit(gradient: Floats) -> Floats:
    """Return a gradient scaled to length 1; a zero gradient stays zero."""
    length = float(np.linalg.norm(gradient))
    return gradient / length if length else gradient


def _known(slopes: Floats) -> Floats:
    return np.where(np.isnan(slopes), 0.0, slopes)
