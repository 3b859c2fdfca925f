"""Compiled kernels of the leaky counts of the kind ``evidence``, for the live detector and for replays."""

from __future__ import annotations

from typing import Any

import numpy as np

from mifsim.defense.compiled import entry, inner


@inner
def _flag(value: Any, radius: float, above: bool) -> Any:
    """Return whether a value is beyond a radius; NaN is not."""
    return np.float64(value) > radius if above else np.float64(value) < radius


@inner
def _next_count(count: float, value: Any, radius: float, above: bool, leak: float) -> float:
    """Return a count after one query: it rises by 1 if the value is beyond the radius, and falls by the leak."""
    return max(0.0, count + (1.0 if _flag(value, radius, above) else 0.0) - leak)


@inner
def update_counts(counts: Any, values: Any, radii: Any, above: Any, leaks: Any, limits: Any) -> float:
    """Update the count of each flag after one query, and return the largest share of a limit that a count has.

    Parameters
    ----------
    counts : ndarray of float64, shape (F,)
        The count of each of F flags; updated.
    values : ndarray of float32, shape (F,)
        The feature of each flag.
    radii, above, leaks, limits
        See `follow`.
    """
    share = 0.0
    for f in range(len(counts)):
        counts[f] = _next_count(counts[f], values[f], radii[f], above[f], leaks[f])
        share = max(share, counts[f] / limits[f])
    return share


@entry
def follow(
    offsets: Any, valid: Any, values: Any, radii: Any, above: Any, leaks: Any, limits: Any, blocked_at: Any, peaks: Any
) -> None:
    """Replay sessions.

    Parameters
    ----------
    offsets : ndarray of int64, shape (S + 1,)
    valid : ndarray of bool, shape (Q,)
    values : ndarray of float32, shape (F, Q)
        The feature of each of F flags.
    radii, leaks, limits : ndarray of float64, shape (F,)
    above : ndarray of bool, shape (F,)
        Whether a value above the radius is flagged, not one below it.
    blocked_at : ndarray of int64, shape (S,)
        Filled with the number of the first query at which a count reaches its limit; 0 if none does.
    peaks : ndarray of float64, shape (S,)
        Filled with the largest share of a limit that a count reaches in the session, up to the block.
    """
    flags = len(radii)
    counts = np.empty(flags)
    for s in range(len(blocked_at)):
        counts[:] = 0.0
        blocked_at[s] = 0
        peak = 0.0
        for q in range(offsets[s], offsets[s + 1]):
            if not valid[q]:
                continue
            for f in range(flags):
                counts[f] = _next_count(counts[f], values[f, q], radii[f], above[f], leaks[f])
                peak = max(peak, counts[f] / limits[f])
            if peak >= 1.0:
                blocked_at[s] = q - offsets[s] + 1
                break
        peaks[s] = peak


@entry
def greatest_counts(offsets: Any, valid: Any, values: Any, radius: float, above: bool, leak: float) -> Any:
    """Return the greatest count of one flag in each session, shape (S,), if no session is blocked."""
    found = np.zeros(len(offsets) - 1)
    for s in range(len(found)):
        count = 0.0
        for q in range(offsets[s], offsets[s + 1]):
            if valid[q]:
                count = _next_count(count, values[q], radius, above, leak)
                found[s] = max(found[s], count)
    return found
