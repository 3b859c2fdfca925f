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
    repeat_lag : ndarray of int64, shape (Q,) or (0,)
        Number of valid queries from the last equal image to the query; 0 if there is none. Empty if exact repeats are
        matches like others. Otherwise the gaps to all equal images are infinite, so that they do not match.
    session_top, session_low : ndarray of shape (P, S)
        Extremes of `top` and `low` over all queries of a session.
    """

    offsets: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]
    gap: npt.NDArray[np.float64]
    top: npt.NDArray[np.float32]
    low: npt.NDArray[np.float64]
    repeat_lag: npt.NDArray[np.int64]
    session_top: npt.NDArray[np.float32]
    session_low: npt.NDArray[np.float64]


def pairs(
    offsets: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.float64],
    similarity: npt.NDArray[np.float32],
    repeat_lag: npt.NDArray[np.int64],
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
        np.array(repeat_lag),
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
            equal = pairs.repeat_lag[q] if len(pairs.repeat_lag) else 0  # the next equal image is this far back
            for p in range(powers):
                while k < min(1 << p, depth, seen):
                    earlier = valid[seen - 1 - k]
                    k += 1
                    if k == equal:  # equal images form a chain: the next one is the last repeat of this one
                        equal = k + pairs.repeat_lag[earlier] if pairs.repeat_lag[earlier] else 0
                        continue
                    pairs.gap[q, k - 1] = abs(hashes[q] - hashes[earlier])
                    closest = min(closest, pairs.gap[q, k - 1])
                    highest = max(highest, pairs.similarity[q, k - 1])
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


# With a leak, each query changes the count to ``(count + matches) - leak``, as in the filter. Leaks are not added up
# over queries: in floating point, the sum would differ in the last bits.


@entry
def follow_plain(
    pairs: Any, t_ssim: Any, t_hash: float, n_b: int, l_sp: int, most: int, blocked_at: Any, counts: Any
) -> None:
    """Replay one configuration without a leak and without exact repeats counted apart; see `follow`.

    The count never falls, so the count at the end is the highest one. Counts are whole numbers.
    """
    offsets, similarity, gap = pairs.offsets, pairs.similarity, pairs.gap
    p = _power(n_b)
    top, low = pairs.top[p], pairs.low[p]
    for s in range(len(offsets) - 1):
        blocked_at[s] = 0
        counts[s] = 0.0
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
def follow(
    pairs: Any, valid: Any, t_ssim: Any, t_hash: float, n_b: int, l_sp: int, most: int, leak: float, repeats: int,
    blocked_at: Any, counts: Any, peaks: Any, repeated: Any,
) -> None:  # fmt: skip
    """Replay one configuration, and write the results to arrays of shape (S,).

    They are the query of the block, the count at the end, the highest count, and the exact repeats at the end. One
    query increases the count by at most `most`. `leak` and `repeats` are 0 if they are off.
    """
    offsets, similarity, gap, repeat_lag = pairs.offsets, pairs.similarity, pairs.gap, pairs.repeat_lag
    p = _power(n_b)
    top, low = pairs.top[p], pairs.low[p]
    for s in range(len(offsets) - 1):
        blocked_at[s] = repeated[s] = 0
        counts[s] = peaks[s] = 0.0
        if repeats == 0 and not (pairs.session_top[p, s] > t_ssim and pairs.session_low[p, s] < t_hash):
            continue
        count, peak = 0.0, 0.0
        for q in range(offsets[s], offsets[s + 1]):
            if repeats > 0 and 0 < repeat_lag[q] <= n_b:
                repeated[s] += 1
                if repeated[s] >= repeats:
                    blocked_at[s] = q - offsets[s] + 1
                    break
            if top[q] > t_ssim and low[q] < t_hash:
                matches = 0
                for k in range(n_b):  # without a branch, so that the loop is vectorised
                    matches += (similarity[q, k] > t_ssim) & (gap[q, k] < t_hash)
                count = (count + min(matches, most)) - leak
                if count >= l_sp:
                    count = peak = np.float64(l_sp)
                    blocked_at[s] = q - offsets[s] + 1
                    break
                count = max(0.0, count)
                peak = max(peak, count)
            elif leak > 0.0 and count > 0.0 and valid[q]:
                count = max(0.0, count - leak)
        counts[s], peaks[s] = count, peak


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


@entry
def follow_all_leaking(
    pairs: Any, valid: Any, t_ssim: Any, t_hash: float, most: int, leak: float, repeats: int,
    group: Any, budget: Any, leakage: Any, blocked: Any, spared: Any, withheld: Any,
) -> None:  # fmt: skip
    """Replay all buffer sizes and limits with a leak, with exact repeats counted apart, or with both; see `follow_all`.

    Below its limit, the count does not depend on the limit. A session is therefore blocked at the first query whose
    count reaches it, and a running maximum finds these queries for all limits. At the last of `repeats` exact repeats,
    all limits that were not reached before block. As the matches, repeats and counts do not decrease with n.
    """
    offsets, similarity, gap, repeat_lag = pairs.offsets, pairs.similarity, pairs.gap, pairs.repeat_lag
    n_b_max, l_sp_max = blocked.shape[1], blocked.shape[2] - 1
    p = _power(n_b_max)
    top, low = pairs.top[p], pairs.low[p]
    count, peak, repeated = np.empty(n_b_max), np.empty(n_b_max, np.int64), np.empty(n_b_max, np.int64)
    for s in range(len(offsets) - 1):
        if repeats == 0 and not (pairs.session_top[p, s] > t_ssim and pairs.session_low[p, s] < t_hash):
            continue
        g, first, last = group[s], offsets[s], offsets[s + 1] - 1
        count[:] = 0.0
        peak[:] = 0  # the highest limit that was reached
        repeated[:] = 0
        going = n_b_max
        for q in range(first, last + 1):
            comparable = top[q] > t_ssim and low[q] < t_hash
            lag = repeat_lag[q] if repeats > 0 else 0
            falls = leak > 0.0 and count[going - 1] > 0.0
            if not valid[q] or not (comparable or lag > 0 or falls):
                continue
            rest = budget[s] - (q - first + 1)
            matches = 0
            for n in range(going):
                if comparable:
                    matches = min(matches + ((similarity[q, n] > t_ssim) & (gap[q, n] < t_hash)), most)
                if 0 < lag <= n + 1:
                    repeated[n] += 1
                if 0 < repeats <= repeated[n]:
                    new = l_sp_max
                else:
                    count[n] = max(0.0, (count[n] + matches) - leak)
                    new = int(min(count[n], np.float64(l_sp_max)))
                old = peak[n]
                if new > old:
                    blocked[g, n, old] += 1
                    blocked[g, n, new] -= 1
                    spared[g, n, old] += rest
                    spared[g, n, new] -= rest
                    if leakage.size > 0:
                        withheld[g, n, old] += leakage[last] - leakage[q - 1]
                        withheld[g, n, new] -= leakage[last] - leakage[q - 1]
                    peak[n] = new
            while going > 0 and peak[going - 1] == l_sp_max:
                going -= 1
            if going == 0:
                break
