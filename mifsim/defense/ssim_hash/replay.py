"""What a configuration of the paper's filter would have done to recorded sessions: exactly, without the images.

A detector only answers a session or ends it, so the queries of an open-loop client up to the block are the same
whatever the configuration. Whether a query matches the k-th image of the buffer depends on the two thresholds alone,
and the count is the number of matches (Algorithm 2) or of queries with one (Section 3.3). `follow` takes one
configuration through all sessions; `follow_swept` counts, for one pair of thresholds, the matches within the last
1, 2, ... images side by side, and so has the outcome of every buffer size and limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from mifsim.defense.recording import (
    Floats,
    Ints,
    RecordedSessions,
    RecordingSpec,
    SessionWeights,
    SweptSums,
    frozen,
)
from mifsim.defense.ssim_hash import replay_kernels

if TYPE_CHECKING:
    from mifsim.defense.ssim_hash.config import FilterConfig


def follow(sessions: RecordedSessions, config: FilterConfig) -> tuple[Ints, Ints]:
    """Return what a configuration would have done to each session.

    Returns
    -------
    blocked_at : ndarray of int64, shape (S,)
        The query, counted from 1, at which UNSAFE first came; 0 where it never did.
    count : ndarray of int64, shape (S,)
        The filter's count at the end.

    Raises
    ------
    ValueError
        Where the recording does not hold what the configuration needs.
    """
    pairs = _pairs_for(sessions, config)
    blocked_at, count = np.empty(sessions.sessions, np.int64), np.empty(sessions.sessions, np.int64)
    replay_kernels.follow(
        pairs, round_down(config.t_ssim), float(config.t_hash), config.n_b, config.l_sp, _most(config),
        blocked_at, count,
    )  # fmt: skip
    return blocked_at, count


def verdicts(sessions: RecordedSessions, session: int, config: FilterConfig) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Return what a configuration would have answered to each query of one session.

    Returns
    -------
    unsafe : ndarray of bool, shape (n,)
        From the block on for ever, as the filter does.
    count : ndarray of int64, shape (n,)
        The filter's count after the query.
    """
    pairs = _pairs_for(sessions, config)
    rows = slice(sessions.offsets[session], sessions.offsets[session + 1])
    similar = pairs.similarity[rows, : config.n_b].astype(np.float64) > config.t_ssim
    close = pairs.gap[rows, : config.n_b] < config.t_hash
    raised = np.minimum((similar & close).sum(axis=1), _most(config))
    count = np.minimum(np.cumsum(raised), config.l_sp)
    return count >= config.l_sp, count


def follow_swept(
    sessions: RecordedSessions, config: FilterConfig, weights: SessionWeights, n_b_max: int, l_sp_max: int
) -> SweptSums:
    """Return what every buffer size and limit with a configuration's thresholds would have done to each group.

    Returns
    -------
    SweptSums
        Arrays have shape (G, n_b_max, l_sp_max): entry ``[g, n_b - 1, l_sp - 1]`` is that of `follow`.

    Raises
    ------
    ValueError
        Where the recording does not hold the form or so many earlier queries.
    """
    pairs = pairs_of(sessions, config.ssim)
    depth = pairs.similarity.shape[1]
    if not 1 <= n_b_max <= depth:
        raise ValueError(f"n_b_max = {n_b_max}: the recording holds 1 to {depth} earlier queries")
    if l_sp_max < 1:
        raise ValueError(f"l_sp_max = {l_sp_max}: must be at least 1")
    shape = (weights.groups, n_b_max, l_sp_max + 1)
    blocked, spared = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    withheld = np.zeros(shape if weights.leak.size else (0, 0, 0), np.int64)
    replay_kernels.follow_all(
        pairs, round_down(config.t_ssim), float(config.t_hash), _most(config), weights.group, weights.budget,
        weights.leak, blocked, spared, withheld,
    )  # fmt: skip

    def summed(differences: Ints) -> Ints:
        return np.cumsum(differences, axis=2)[:, :, :-1]

    return SweptSums(summed(blocked), summed(spared), summed(withheld) if weights.leak.size else None)


def pairs_of(sessions: RecordedSessions, form: str) -> replay_kernels.Pairs:
    """Return what the kernels read for an SSIM form; made once, and kept with the recording."""
    name = f"ssim_{form}"
    if name not in sessions.columns:
        known = ", ".join(column.removeprefix("ssim_") for column in sessions.columns if column.startswith("ssim_"))
        raise ValueError(f"the recording holds no {form!r} similarity, only {known}")
    if name not in sessions.prepared:
        sessions.prepared[name] = replay_kernels.pairs(
            sessions.offsets, sessions.columns["hash"], sessions.columns[name]
        )
    return cast(replay_kernels.Pairs, sessions.prepared[name])


def threshold_values(
    sessions: RecordedSessions,
    form: str,
    bounds: Mapping[str, tuple[float, float]],
    steps: Mapping[str, int],
) -> dict[str, Floats]:
    """Return thresholds fine enough for a reference: half on the parameters' scales, half where the data lie.

    Parameters
    ----------
    sessions : RecordedSessions
        Whose similarities and gaps count, those of pairs within the recorded number of images of each other.
    form : {"global", "uniform", "gaussian"}
        The SSIM.
    bounds : mapping
        Of ``t_ssim`` and ``t_hash``, below 1 and above 0. ``1 - t_ssim`` and ``t_hash`` are spread log-uniformly, as
        in the search.
    steps : mapping
        How many of each, at most: equal ones are dropped.

    Returns
    -------
    dict
        ``t_ssim`` and ``t_hash``, ascending.
    """
    pairs = pairs_of(sessions, form)
    finite = np.isfinite(pairs.gap)
    distances = 1 - pairs.similarity[finite].astype(np.float64)
    low, high = bounds["t_ssim"]
    far_to_near = _spread(distances, (1 - high, 1 - low), steps["t_ssim"])[::-1]
    return {"t_ssim": 1 - far_to_near, "t_hash": _spread(pairs.gap[finite], bounds["t_hash"], steps["t_hash"])}


def recorded_sessions(
    offsets: Ints,
    similarity: Mapping[str, npt.NDArray[np.float32]],
    hashes: Floats,
    hash_size: int = 8,
) -> tuple[RecordingSpec, RecordedSessions]:
    """Return a recording made of arrays, and its spec.

    Parameters
    ----------
    offsets : ndarray of int64, shape (S + 1,)
        See `RecordedSessions`.
    similarity : mapping of form to ndarray of float32, shape (Q, n_b)
        To the k-th previous valid query of the session in column k - 1 (newest first); NaN where there is none.
    hashes : ndarray of float64, shape (Q,)
        NaN for an invalid query.
    hash_size : int
        With which the hashes were taken.
    """
    shapes = {table.shape[1:] for table in similarity.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or shape[0] < 1:
        raise ValueError("similarity must have shape (queries, n_b) for every form, with the same n_b of at least 1")
    options = {"n_b": shape[0], "forms": tuple(sorted(similarity)), "hash_size": hash_size}
    columns: dict[str, npt.NDArray[Any]] = {
        "hash": hashes,
        **{f"ssim_{form}": table for form, table in similarity.items()},
    }
    kinds = {"hash": np.float64}
    arrays = {name: frozen(array, kinds.get(name, np.float32)) for name, array in columns.items()}
    valid = frozen(~np.isnan(arrays["hash"]))
    spec = RecordingSpec.of("ssim-hash", options, None)
    return spec, RecordedSessions(frozen(offsets, np.int64), valid, arrays, options)


def _spread(values: Floats, bounds: tuple[float, float], steps: int) -> Floats:
    low, high = bounds
    if not 0 < low <= high or steps < 2:
        raise ValueError(f"need 0 < low <= high and at least 2 steps, got {low} to {high}, {steps} steps")
    inside = values[(values > low) & (values < high)]
    scale = np.geomspace(low, high, steps - steps // 2)
    if inside.size == 0:
        return scale
    return np.unique(np.concatenate([scale, np.quantile(inside, np.linspace(0, 1, steps // 2))]))


def _pairs_for(sessions: RecordedSessions, config: FilterConfig) -> replay_kernels.Pairs:
    pairs = pairs_of(sessions, config.ssim)
    depth = pairs.similarity.shape[1]
    if config.n_b > depth:
        raise ValueError(f"n_b = {config.n_b}: the recording holds only {depth} earlier queries")
    recorded: Any = sessions.options.get("hash_size", config.hash_size)
    if config.hash_size != recorded:
        raise ValueError(f"hash_size = {config.hash_size}: the recording was taken with {recorded}")
    return pairs


def _most(config: FilterConfig) -> int:
    """Return by how much one query can raise the count."""
    return 1 if config.count_rule == "per_query" else 2**62


def round_down(threshold: float) -> np.float32:
    """Return the float32 that another one exceeds exactly where it exceeds `threshold` as a float64."""
    rounded = np.float32(threshold)
    return rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf))
