"""Compiled kernels of the filter's replay, and their input.

This module imports numba, so import it only in functions that need it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.defense.compiled import entry, inner


class Pairs(NamedTuple):
    """Similarities and hash differences of each query and the previous valid ones, for one form of SSIM.

    P is the number of powers of two up to the first one that is at least `n_b_max`.

    Attributes
    ----------
    offsets : ndarray of int64, shape (S + 1,)
        The queries of session s are the rows ``offsets[s]:offsets[s + 1]``.
    similarity : ndarray of float32, shape (Q, n_b_max)
        Column k - 1 contains the similarity to the k-th previous valid query of the session; NaN if there is none.
    gap : ndarray of float64, shape (Q, n_b_max)
        Absolute difference of the hashes, as the filter computes it; infinite if there is no such query.
    top : ndarray of float32, shape (P, Q)
        Largest similarity to the last ``2**p`` valid queries (in the last row: to all `n_b_max`).
    low : ndarray of float64, shape (P, Q)
        Smallest gap to them. If `top` or `low` does not meet its threshold, a buffer of at most ``2**p`` images cannot
        contain a match, and the kernels skip the query.
    session_top, session_low : ndarray of shape (P, S)
        Extremes of `top` and `low` over all queries of a session.
    """

    offsets: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]
    gap: npt.NDArray[np.float64]
    top: npt.NDArray[np.float32]
    low: npt.NDArray[np.float64]
    session_top: npt.NDArray[np.float32]
    session_low: npt.NDArray[np.float64]


def pairs(
    offsets: npt.NDArray[np.int64], hashes: npt.NDArray[np.float64], similarity: npt.NDArray[np.float32]
) -> Pairs:
    """Compute `Pairs` from the arrays of a recording; an invalid query has the hash NaN."""
    queries, depth = similarity.shape
    powers, sessions = (depth - 1).bit_length() + 1, offsets.size - 1
    made = Pairs(
        offsets,
        similarity,
        np.full((queries, depth), np.inf),
        np.full((powers, queries), -np.inf, np.float32),
        np.full((powers, queries), np.inf),
        np.full((powers, sessions), -np.inf, np.float32),
        np.full((powers, sessions), np.inf),
    )
    _fill(made, hashes)
    for array in made:
        array.flags.writeable = False
    return made


@entry
def _fill(pairs: Any, hashes: Any) -> None:
    powers, depth = len(pairs.top), pairs.similarity.shape[1]
    valid = np.empty(len(hashes), np.int64)
    for s in range(len(pairs.offsets) - 1):
        seen = 0
        for q in range(pairs.offsets[s], pairs.offsets[s + 1]):
            if np.isnan(hashes[q]):
                continue
            highest, closest, k = np.float32(-np.inf), np.inf, 0
            for p in range(powers):
                while k < min(1 << p, depth, seen):
                    pairs.gap[q, k] = abs(hashes[q] - hashes[valid[seen - 1 - k]])
                    closest = min(closest, pairs.gap[q, k])
                    highest = max(highest, pairs.similarity[q, k])
                    k += 1
                pairs.top[p, q], pairs.low[p, q] = highest, closest
                pairs.session_top[p, s] = max(pairs.session_top[p, s], highest)
                pairs.session_low[p, s] = min(pairs.session_low[p, s], closest)
            valid[seen] = q
            seen += 1


@inner
def _power(n_b: int) -> int:
    """Return the smallest p with ``n_b <= 2**p``."""
    p = 0
    while (1 << p) < n_b:
        p += 1
    return p


@entry
def follow(
    pairs: Any, t_ssim: Any, t_hash: float, n_b: int, l_sp: int, most: int, blocked_at: Any, counts: Any
) -> None:
    """Replay one configuration, and write the results to `blocked_at` and `counts`, of shape (S,).

    One query increases the count by at most `most`.
    """
    offsets, similarity, gap = pairs.offsets, pairs.similarity, pairs.gap
    p = _power(n_b)
    top, low = pairs.top[p], pairs.low[p]
    for s in range(len(offsets) - 1):
        blocked_at[s] = counts[s] = 0
        if not (pairs.session_top[p, s] > t_ssim and pairs.session_low[p, s] < t_hash):
            continue
        count = 0
        for q in range(offsets[s], offsets[s + 1]):
            if top[q] > t_ssim and low[q] < t_hash:
                matches = 0
                for k in range(n_b):  # without a branch, so that the loop is vectorised
                    matches += (similarity[q, k] > t_ssim) & (gap[q, k] < t_hash)
                count += min(matches, most)
                if count >= l_sp:
                    count = l_sp
                    blocked_at[s] = q - offsets[s] + 1
                    break
        counts[s] = count


@entry
def follow_all(
    pairs: Any, t_ssim: Any, t_hash: float, most: int, group: Any, budget: Any, leak: Any,
    blocked: Any, spared: Any, withheld: Any,
) -> None:  # fmt: skip
    """Replay all buffer sizes and limits, and add the sums to `blocked`, `spared` and `withheld`.

    These arrays have the shape (G, n_b_max, l_sp_max + 1) and contain differences along the last axis. They are the
    sessions blocked, the queries of the budgets after the blocks, and the leakage after the blocks up to the end of the
    recording (empty, like `leak`, if it is unknown). The number of matches within the last n images does not decrease
    with n. Therefore, when the count for n images reaches `l_sp_max`, buffers of n or more images need no further
    queries of the session.
    """
    offsets, similarity, gap = pairs.offsets, pairs.similarity, pairs.gap
    n_b_max, l_sp_max = blocked.shape[1], blocked.shape[2] - 1
    p = _power(n_b_max)
    top, low = pairs.top[p], pairs.low[p]
    count = np.empty(n_b_max, np.int64)
    for s in range(len(offsets) - 1):
        if not (pairs.session_top[p, s] > t_ssim and pairs.session_low[p, s] < t_hash):
            continue
        g, first, last = group[s], offsets[s], offsets[s + 1] - 1
        count[:] = 0
        going = n_b_max  # buffers of at most this size have not reached l_sp_max
        for q in range(first, last + 1):
            if not (top[q] > t_ssim and low[q] < t_hash):
                continue
            rest = budget[s] - (q - first + 1)
            matches = 0
            for n in range(going):
                matches = min(matches + ((similarity[q, n] > t_ssim) & (gap[q, n] < t_hash)), most)
                if matches == 0:
                    continue
                old, new = count[n], min(count[n] + matches, l_sp_max)
                blocked[g, n, old] += 1
                blocked[g, n, new] -= 1
                spared[g, n, old] += rest
                spared[g, n, new] -= rest
                if leak.size > 0:
                    withheld[g, n, old] += leak[last] - leak[q - 1]
                    withheld[g, n, new] -= leak[last] - leak[q - 1]
                count[n] = new
            while going > 0 and count[going - 1] == l_sp_max:
                going -= 1
            if going == 0:
                break
