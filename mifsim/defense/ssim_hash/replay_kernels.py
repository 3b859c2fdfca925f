"""The compiled loops of the filter's replay, and what they read. Import it where it is used: it loads numba."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.defense.compiled import entry, inner


class Pairs(NamedTuple):
    """Each query and the valid ones before it, for one SSIM form; P is the number of powers of two.

    Attributes
    ----------
    offsets : ndarray of int64, shape (S + 1,)
        The queries of session s are the rows ``offsets[s]:offsets[s + 1]``.
    similarity : ndarray of float32, shape (Q, n_b_max)
        To the k-th previous valid query of the session in column k - 1, NaN where there is none.
    gap : ndarray of float64, shape (Q, n_b_max)
        ``abs(hash - hash)``, as the filter takes it; infinite where there is none.
    top : ndarray of float32, shape (P, Q)
        The largest similarity within the last ``2**p`` valid queries (the last row: all `n_b_max`).
    low : ndarray of float64, shape (P, Q)
        The smallest gap within them. A buffer of at most ``2**p`` images cannot match a query whose top or
        low is not within its threshold: most need no further look.
    session_top, session_low : ndarray of shape (P, S)
        The same over all queries of a session.
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
    """Derive `Pairs` from the arrays of a trace; an invalid query has the hash NaN."""
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
    """Run one setting; one query can raise the count by `most`. Fills the last two arrays, of shape (S,)."""
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
                for k in range(n_b):  # without a branch, so that it becomes vector instructions
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
    """Run every buffer size and limit; adds to the last three arrays, as differences along their last axis.

    They have the shape (G, n_b_max, l_sp_max + 1): sessions blocked, the part of their budgets that the
    blocks spared, and by how much less leaked before the block than by the end of the trace (empty, as is
    `leak`, where that is not known). The count of matches within the last n images never falls with n, so a
    session is done with all buffers of n and more as soon as the count for n has reached `l_sp_max`.
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
        going = n_b_max  # buffers of this size and less have not reached l_sp_max
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
