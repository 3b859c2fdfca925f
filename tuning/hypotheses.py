"""Exact tests of false-positive rates, and procedures that control the family-wise error of several tests.

References
----------
Angelopoulos, Bates, Candes, Jordan and Lei, *Learn then Test* (2021), sections 2 and 3. Holm, Scandinavian
Journal of Statistics 6 (1979).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from tuning.tracedata import Bools, Floats


def p_values(blocked: npt.ArrayLike, sessions: npt.ArrayLike, limits: npt.ArrayLike) -> Floats:
    """Return a p-value of each configuration's hypothesis that the rate of at least one workload exceeds its limit.

    Parameters
    ----------
    blocked : array_like of int, shape (..., G)
        Number of sessions of each of G workloads that the configuration blocks.
    sessions : array_like of int, shape (G,)
        Number of sessions of each workload. If it is 0, the p-value is 1.
    limits : array_like of float, shape (G,)
        Limit of each workload's false-positive rate, in (0, 1).

    Returns
    -------
    ndarray of float64, shape (...)
        The largest of the workloads' exact binomial p-values, in [0, 1].

    Examples
    --------
    >>> p_values([[0], [1]], [299], [0.01]).round(4).tolist()
    [0.0495, 0.1991]
    """
    tails = special.bdtr(np.asarray(blocked), np.asarray(sessions), np.asarray(limits, dtype=np.float64))
    return np.asarray(tails.max(axis=-1), dtype=np.float64)


def fixed_sequence(p: npt.ArrayLike, delta: float) -> Bools:
    """Test J hypotheses in a given order, each at level `delta`; stop at the first that is not rejected.

    Parameters
    ----------
    p : array_like of float, shape (J,)
        P-values in the order of testing. The order must not depend on the data of the p-values.
    delta : float
        Family-wise error, in (0, 1).

    Returns
    -------
    ndarray of bool, shape (J,)
        Whether each hypothesis is rejected.

    Examples
    --------
    >>> fixed_sequence([0.01, 0.04, 0.06, 0.001], 0.05).tolist()
    [True, True, False, False]
    """
    return np.logical_and.accumulate(np.asarray(p, dtype=np.float64) <= delta)


def holm(p: npt.ArrayLike, delta: float) -> Bools:
    """Test J hypotheses by Holm's step-down procedure, which needs no given order.

    Parameters
    ----------
    p : array_like of float, shape (J,)
        P-values, in any order.
    delta : float
        Family-wise error, in (0, 1).

    Returns
    -------
    ndarray of bool, shape (J,)
        Whether each hypothesis is rejected.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.02], 0.05).tolist()
    [True, True, True]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    passed = values[order] <= delta / np.arange(values.size, 0, -1)
    rejected = np.zeros(values.shape, dtype=np.bool_)
    rejected[order[: values.size if passed.all() else int(np.argmin(passed))]] = True
    return rejected
