"""Exact replay of the paper's filter on recorded sessions, without the images.

A detector does not change the model's answers, it only blocks. Therefore the queries of an open-loop client up to the
block are the same under every configuration. Whether a query matches the k-th image of the buffer depends only on the
two thresholds. The count is the number of matches (Algorithm 2) or of queries with a match (Section 3.3). `follow`
replays one configuration. `follow_swept` replays all buffer sizes and limits for one pair of thresholds: it counts the
matches within the last 1, 2, ... images in one pass. `FilterConfig` defines how the count changes with a leak, and what
exact repeats are if they are counted apart; a replay computes the same numbers in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from mifsim.defense.recording import (
    Floats,
    Ints,
    Outcome,
    RecordedSessions,
    RecordingSpec,
    SessionWeights,
    SweptSums,
    frozen,
)
from mifsim.defense.ssim_hash import replay_kernels

if TYPE_CHECKING:
    from mifsim.defense.ssim_hash.config import FilterConfig

_NO_LAGS: Ints = frozen([], np.int64)


def follow(sessions: RecordedSessions, config: FilterConfig) -> tuple[Ints, Floats]:
    """Replay one configuration on all sessions.

    Returns
    -------
    blocked_at : ndarray of int64, shape (S,)
        Number of the first UNSAFE query, from 1; 0 if there is none.
    count : ndarray of float64, shape (S,)
        The filter's count at the end of the session.

    Raises
    ------
    ValueError
        If the recording does not contain the data that the configuration needs.
    """
    blocked_at, count, _, _ = _follow(sessions, config)
    return blocked_at, count


def outcome(sessions: RecordedSessions, config: FilterConfig) -> Outcome:
    """Replay one configuration on all sessions; nearness is that of the count, or of the repeats if they came nearer.

    Raises
    ------
    ValueError
        If the recording does not contain the data that the configuration needs.
    """
    blocked_at, _, peak, repeats = _follow(sessions, config)
    nearness = (peak + 1) / config.l_sp
    if config.repeats:
        nearness = np.maximum(nearness, (repeats + 1) / config.repeats)
    return Outcome(blocked_at, np.minimum(1.0, nearness))


def _follow(sessions: RecordedSessions, config: FilterConfig) -> tuple[Ints, Floats, Floats, Ints]:
    """Return the query of the block, the final and the highest count, and the exact repeats, each of shape (S,)."""
    pairs = _pairs_for(sessions, config)
    size = sessions.sessions
    blocked_at, counts = np.empty(size, np.int64), np.empty(size)
    if not config.leak and not config.repeats:
        replay_kernels.follow_plain(
            pairs, round_down(config.t_ssim), float(config.t_hash), config.n_b, config.l_sp, _most(config),
            blocked_at, counts,
        )  # fmt: skip
        return blocked_at, counts, counts, _no_repeats(size)
    found = blocked_at, counts, np.empty(size), np.empty(size, np.int64)
    replay_kernels.follow(
        pairs, sessions.valid, round_down(config.t_ssim), float(config.t_hash), config.n_b, config.l_sp, _most(config),
        config.leak, config.repeats, *found,
    )  # fmt: skip
    return found


def verdicts(sessions: RecordedSessions, session: int, config: FilterConfig) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Replay one configuration on one session, query by query.

    Parameters
    ----------
    sessions : RecordedSessions
    session : int
        Index of the session, with n queries.
    config : FilterConfig

    Returns
    -------
    unsafe : ndarray of bool, shape (n,)
        Whether the verdict is UNSAFE: True from the block on.
    count : ndarray of float64, shape (n,)
        The filter's count after the query.

    Raises
    ------
    ValueError
        If the recording does not contain the data that the configuration needs.
    """
    pairs = _pairs_for(sessions, config)
    rows = slice(sessions.offsets[session], sessions.offsets[session + 1])
    similar = pairs.similarity[rows, : config.n_b].astype(np.float64) > config.t_ssim
    close = pairs.gap[rows, : config.n_b] < config.t_hash
    raised = np.minimum((similar & close).sum(axis=1), _most(config)).tolist()
    lags = pairs.repeat_lag[rows].tolist() if config.repeats else [0] * len(raised)
    count, repeats, blocked = 0.0, 0, False
    unsafe, counts = np.zeros(len(raised), np.bool_), np.zeros(len(raised))
    for q in range(len(raised)):
        if not blocked and sessions.valid[rows][q]:
            repeats += 0 < lags[q] <= config.n_b
            if 0 < config.repeats <= repeats:
                blocked = True
            else:
                count = min(float(config.l_sp), max(0.0, (count + raised[q]) - config.leak))
                blocked = count >= config.l_sp
        unsafe[q], counts[q] = blocked, count
    return unsafe, counts


def follow_swept(
    sessions: RecordedSessions, config: FilterConfig, weights: SessionWeights, n_b_max: int, l_sp_max: int
) -> SweptSums:
    """Replay all buffer sizes and limits with the thresholds of a configuration, and sum over groups of sessions.

    Parameters
    ----------
    sessions : RecordedSessions
    config : FilterConfig
        Its buffer size and limit are not used; leak and repeats are.
    weights : SessionWeights
    n_b_max, l_sp_max : int
        Largest buffer size and limit; at least 1.

    Returns
    -------
    SweptSums
        Arrays of shape (G, n_b_max, l_sp_max). The entry ``[g, n_b - 1, l_sp - 1]`` agrees with `follow`.

    Raises
    ------
    ValueError
        If the recording does not contain the form of SSIM or `n_b_max` previous images.
    """
    pairs = pairs_of(sessions, config.ssim, config.repeats > 0)
    depth = pairs.similarity.shape[1]
    if not 1 <= n_b_max <= depth:
        raise ValueError(f"n_b_max = {n_b_max}: must be from 1 to {depth}, the recorded number of previous images")
    if l_sp_max < 1:
        raise ValueError(f"l_sp_max = {l_sp_max}: must be at least 1")
    shape = (weights.groups, n_b_max, l_sp_max + 1)
    blocked, spared = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    withheld = np.zeros(shape if weights.leak.size else (0, 0, 0), np.int64)
    thresholds, groups = (
        (round_down(config.t_ssim), float(config.t_hash)),
        (weights.group, weights.budget, weights.leak),
    )
    sums, most = (blocked, spared, withheld), _most(config)
    if config.leak or config.repeats:
        additions = config.leak, config.repeats
        replay_kernels.follow_all_leaking(pairs, sessions.valid, *thresholds, most, *additions, *groups, *sums)
    else:
        replay_kernels.follow_all(pairs, *thresholds, most, *groups, *sums)

    def summed(differences: Ints) -> Ints:
        return np.cumsum(differences, axis=2)[:, :, :-1]

    return SweptSums(summed(blocked), summed(spared), summed(withheld) if weights.leak.size else None)


def pairs_of(sessions: RecordedSessions, form: str, repeats_apart: bool = False) -> replay_kernels.Pairs:
    """Return the kernels' input for a form of SSIM; computed once, and cached in the recording.

    Raises
    ------
    ValueError
        If the recording does not contain the form or, if they are counted apart, the exact repeats.
    """
    name = f"ssim_{form}"
    if name not in sessions.columns:
        known = ", ".join(column.removeprefix("ssim_") for column in sessions.columns if column.startswith("ssim_"))
        raise ValueError(f"ssim = {form!r}: not in the recording, which contains {known or 'no form of SSIM'}")
    if repeats_apart and "repeat_lag" not in sessions.columns:
        raise ValueError("repeats: not in the recording, which does not contain exact repeats (expected repeats = 0)")
    key = f"{name} without repeats" if repeats_apart else name
    if key not in sessions.prepared:
        lags = sessions.columns["repeat_lag"] if repeats_apart else _NO_LAGS
        sessions.prepared[key] = replay_kernels.pairs(
            sessions.offsets, sessions.columns["hash"], sessions.columns[name], lags
        )
    return cast(replay_kernels.Pairs, sessions.prepared[key])


def recorded_sessions(
    offsets: Ints,
    similarity: Mapping[str, npt.NDArray[np.float32]],
    hashes: Floats,
    hash_size: int = 8,
    repeat_lag: Ints | None = None,
) -> tuple[RecordingSpec, RecordedSessions]:
    """Create a recording and its spec from arrays.

    Parameters
    ----------
    offsets : ndarray of int64, shape (S + 1,)
        See `RecordedSessions`.
    similarity : mapping of form to ndarray of float32, shape (Q, n_b)
        Column k - 1 contains the similarity to the k-th previous valid query of the session (the newest first); NaN if
        there is no such query.
    hashes : ndarray of float64, shape (Q,)
        NaN for an invalid query.
    hash_size : int
        Hash size with which the hashes were computed.
    repeat_lag : ndarray of int64, shape (Q,), optional
        See `FilterConfig.columns`; None if exact repeats were not recorded.

    Raises
    ------
    ValueError
        If the arrays of similarities have different shapes.
    """
    shapes = {table.shape[1:] for table in similarity.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or shape[0] < 1:
        raise ValueError("similarity: expected arrays of shape (queries, n_b), with the same n_b >= 1 for every form")
    options = {"n_b": shape[0], "forms": tuple(sorted(similarity)), "hash_size": hash_size}
    columns: dict[str, npt.NDArray[Any]] = {
        "hash": hashes,
        **{f"ssim_{form}": table for form, table in similarity.items()},
    }
    if repeat_lag is not None:
        options["repeats"], columns["repeat_lag"] = True, repeat_lag
    kinds = {"hash": np.float64, "repeat_lag": np.int64}
    arrays = {name: frozen(array, kinds.get(name, np.float32)) for name, array in columns.items()}
    valid = frozen(~np.isnan(arrays["hash"]))
    spec = RecordingSpec.of("ssim-hash", options, None)
    return spec, RecordedSessions(frozen(offsets, np.int64), valid, arrays, options)


def _pairs_for(sessions: RecordedSessions, config: FilterConfig) -> replay_kernels.Pairs:
    pairs = pairs_of(sessions, config.ssim, config.repeats > 0)
    depth = pairs.similarity.shape[1]
    if config.n_b > depth:
        raise ValueError(f"n_b = {config.n_b}: must be at most {depth}, the recorded number of previous images")
    recorded: Any = sessions.options.get("hash_size", config.hash_size)
    if config.hash_size != recorded:
        raise ValueError(f"hash_size = {config.hash_size}: must be {recorded}, the hash size of the recording")
    return pairs


@lru_cache(maxsize=8)
def _no_repeats(size: int) -> Ints:
    zeros: Ints = frozen(np.zeros(size, np.int64))
    return zeros


def _most(config: FilterConfig) -> int:
    """Return the maximum increase of the count by one query."""
    return 1 if config.count_rule == "per_query" else 2**62


def round_down(threshold: float) -> np.float32:
    """Round a threshold down to float32, so that comparisons with float32 values have the same result."""
    rounded = np.float32(threshold)
    return rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf))
