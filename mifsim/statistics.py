"""The few statistics that every table here needs, exact where an exact form exists.

The session is the unit of all of them: queries inside one session are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) two-sided interval for a proportion.

    Parameters
    ----------
    successes, trials : int
        With ``0 <= successes <= trials``. Without trials nothing is known: (0, 1).
    confidence : float
        In (0, 1).

    Returns
    -------
    tuple of float
        Lower and upper end.

    References
    ----------
    Clopper and Pearson, Biometrika 26 (1934).

    Examples
    --------
    >>> low, high = clopper_pearson(0, 299)
    >>> low, round(high, 4)
    (0.0, 0.0123)
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"need 0 <= successes <= trials, got {successes} of {trials}")
    if trials == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Survival:
    """A Kaplan-Meier estimate of the chance that a session is still open.

    Attributes
    ----------
    queries : ndarray of shape (n,)
        Where the curve steps, ascending; 0 first.
    open : ndarray of shape (n,)
        The share still open after that query.
    low, high : ndarray of shape (n,)
        Pointwise band (log-log transform, as R's survfit with ``conf.type="log-log"``).
    """

    queries: Floats
    open: Floats
    low: Floats
    high: Floats

    @property
    def median(self) -> float | None:
        """First query after which at most half are open, None where that never comes."""
        below = np.flatnonzero(self.open <= 0.5)
        return float(self.queries[below[0]]) if below.size else None

    def restricted_mean(self, limit: float) -> float:
        """Mean queries to block, each counted as `limit` at most: the area under the curve up to `limit`."""
        inside = self.queries < limit
        edges = np.append(self.queries[inside], limit)
        return float(np.sum(np.diff(edges) * self.open[inside]))


def kaplan_meier(queries: npt.ArrayLike, blocked: npt.ArrayLike, confidence: float = 0.95) -> Survival:
    """Kaplan-Meier estimate for queries to block.

    Parameters
    ----------
    queries : array_like of shape (n,)
        Queries until the block, or until observation ended.
    blocked : array_like of bool, shape (n,)
        False where observation ended first (right-censored).
    confidence : float
        Of the pointwise band.

    Returns
    -------
    Survival

    References
    ----------
    Kaplan and Meier, JASA 53 (1958); scipy.stats.ecdf.
    """
    times = np.asarray(queries, dtype=np.float64)
    events = np.asarray(blocked, dtype=bool)
    if times.shape != events.shape or times.ndim != 1:
        raise ValueError(f"queries and blocked must be one-dimensional and alike, got {times.shape} and {events.shape}")
    if times.size == 0:
        raise ValueError("no session: a survival curve needs at least one")
    sample = stats.CensoredData(uncensored=times[events], right=times[~events])
    survival = stats.ecdf(sample).sf
    with np.errstate(divide="ignore", invalid="ignore"):
        band = survival.confidence_interval(confidence, method="log-log")
    open_ = np.asarray(survival.probabilities, dtype=np.float64)
    # The transform is undefined where nothing or everything is open: there the band is the estimate itself.
    low = np.where(np.isnan(band.low.probabilities), open_, band.low.probabilities)
    high = np.where(np.isnan(band.high.probabilities), open_, band.high.probabilities)
    start = np.array([0.0]), np.array([1.0])
    return Survival(
        queries=np.concatenate([start[0], np.asarray(survival.quantiles, dtype=np.float64)]),
        open=np.concatenate([start[1], open_]),
        low=np.concatenate([start[1], low]),
        high=np.concatenate([start[1], high]),
    )
