"""Near misses: sessions whose count came near the count that blocks, compared with those of the calibration.

They tell of a change before anybody is blocked. A calibration writes into ``filter.toml`` how near the sessions of each
workload came (`Baseline`). For each of a few shares b of the limit, the exact upper confidence bound of the *worst*
workload's probability of a near miss holds for traffic of these workloads in any mix. The evidence against it is that
of `mifsim.watch.evidence`, averaged over the shares b. Half of the error goes to the bounds, and half to the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mifsim.watch.evidence import Floats, log_evidence, log_mean

BINS = 11
"""Number of bins of a histogram: a tenth of the limit each, and the last one for blocked sessions."""

TESTED = (3, 5, 7, 9)
"""First bins of the near misses that are tested: at least 0.3, 0.5, 0.7 and 0.9 of the limit."""

_BISECTIONS = 60


def nearness_bin(count: npt.ArrayLike, limit: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the bin of a session's largest count, from 0 to 10.

    Parameters
    ----------
    count, limit : array_like of float
        The largest count, and the count that blocks; if the latter is infinite, the bin is 0.

    Examples
    --------
    >>> nearness_bin([0, 3, 9.99, 10, 12], 10).tolist()
    [0, 3, 9, 10, 10]
    """
    share = np.asarray(count, np.float64) / np.asarray(limit, np.float64)
    # The tolerance lets 0.7, whose product with 10 is a little above or below 7, belong to one bin.
    return np.clip(np.floor(np.nan_to_num(share) * 10 + 1e-9), 0, BINS - 1).astype(np.int64)


def upper_bound(found: int, sessions: int, delta: float) -> float:
    """Return the exact (Clopper-Pearson) upper confidence bound of a probability, at confidence 1 - delta.

    Examples
    --------
    >>> round(upper_bound(0, 299, 0.05), 4)
    0.01
    """
    if found >= sessions:
        return 1.0
    ways = [math.lgamma(sessions + 1) - math.lgamma(k + 1) - math.lgamma(sessions - k + 1) for k in range(found + 1)]
    counts = np.arange(found + 1)
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        tail = np.exp(np.array(ways) + counts * math.log(middle) + (sessions - counts) * math.log1p(-middle)).sum()
        low, high = (middle, high) if tail > delta else (low, middle)
    return high


@dataclass(frozen=True)
class Baseline:
    """How near the sessions of a calibration came to a block.

    Attributes
    ----------
    workloads : tuple of str
        Names of W workloads.
    histograms : tuple of tuple of int
        Numbers of sessions of each workload in each of `BINS` bins; shape (W, 11).
    candidates : int
        Number of configurations among which the filter was chosen on these very sessions; 1: they were not used for
        the choice.
    """

    workloads: tuple[str, ...]
    histograms: tuple[tuple[int, ...], ...]
    candidates: int = 1

    def bounds(self, delta: float) -> Floats:
        """Return, for each of `TESTED`, an upper bound of the near misses of every workload, right at the same time.

        The error is shared by the tested shares and the candidates, but not by the workloads: the largest bound is
        wrong only if the bound of the worst workload is.
        """
        each = delta / len(TESTED) / self.candidates
        rows = [np.array(histogram) for histogram in self.histograms]
        return np.array(
            [max(upper_bound(int(row[first:].sum()), int(row.sum()), each) for row in rows) for first in TESTED]
        )


def near_misses(bins: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each session and each of `TESTED` whether it was such a near miss, as 0 or 1; shape (n, 4)."""
    return (bins[:, None] >= np.array(TESTED)).astype(np.int64)


def log_near_miss_evidence(sessions: npt.ArrayLike, found: npt.ArrayLike, bounds: Floats) -> Floats:
    """Return the logarithm of the mean of the e-processes of all tested shares.

    Parameters
    ----------
    sessions : array_like of int, shape (...)
    found : array_like of int, shape (..., 4)
        Number of near misses for each of `TESTED`.
    bounds : ndarray of float64, shape (4,)
        Result of `Baseline.bounds`.
    """
    return log_mean(log_evidence(np.asarray(sessions)[..., None], found, bounds))


def worst_shares(histograms: Sequence[Sequence[int]]) -> Floats:
    """Return the largest share, over workloads, of sessions in each bin or a higher one; shape (11,)."""
    rows = np.array(histograms, np.float64)
    tails = rows[:, ::-1].cumsum(axis=1)[:, ::-1]
    worst: Floats = (tails / np.maximum(rows.sum(axis=1, keepdims=True), 1)).max(axis=0)
    return worst
