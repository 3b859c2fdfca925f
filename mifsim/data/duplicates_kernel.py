"""The compiled search for near duplicates; see `mifsim.data.duplicates`."""

from __future__ import annotations

from typing import Any

import numpy as np

from mifsim.defense.compiled import entry

LOW = 8
"""Number of first coefficients that are compared apart, because they are close together in memory."""


@entry
def leaders(coefficients: Any, limits: Any) -> Any:
    """Return, for each row, the last earlier leader that is near it; its own index (it is a leader) if there is none.

    Two rows are near if their squared distance is at most the greater of their limits.

    Parameters
    ----------
    coefficients : ndarray of float32, shape (n, values)
        Sorted by the first column.
    limits : ndarray of float64, shape (n,)

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    count, values = coefficients.shape
    low = min(LOW, values)
    found = np.arange(count)
    reach = np.sqrt(limits.max()) if count else 0.0
    rows = np.empty(count, np.int64)  # the leaders so far, and their first coefficients
    lows = np.empty((count, low), np.float32)
    number = 0
    for row in range(count):
        at = number - 1
        while at >= 0 and coefficients[row, 0] - lows[at, 0] <= reach:
            squared = np.float32(0)
            for k in range(low):
                difference = coefficients[row, k] - lows[at, k]
                squared += difference * difference
            leader = rows[at]
            limit = max(limits[row], limits[leader])
            if squared <= limit:
                for k in range(low, values):
                    difference = coefficients[row, k] - coefficients[leader, k]
                    squared += difference * difference
                    if squared > limit:
                        break
                if squared <= limit:
                    found[row] = leader
                    break
            at -= 1
        if found[row] == row:
            rows[number] = row
            lows[number] = coefficients[row, :low]
            number += 1
    return found
