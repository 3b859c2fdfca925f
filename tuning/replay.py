"""What a setting would have done on recorded traces: exactly, without simulating anything again.

The filter only answers a session or ends it, so the queries of an open-loop client up to the block are the
same whatever the setting. Whether a query matches the k-th image of the buffer depends on the two thresholds
alone, and the count is the number of matches (Algorithm 2) or of queries with one (Section 3.3). `replay`
takes one setting through all sessions; `replay_all` counts, for one pair of thresholds, the matches within
the last 1, 2, ... `n_b_max` images side by side, and so has the outcome of every buffer size and limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from mifsim.defense import FilterConfig
from mifsim.defense.ssim_hash.config import COUNT_RULES
from tuning import kernels
from tuning.tracedata import Bools, Floats, Ints, TraceSet, frozen

_LEAK_STEPS = 2.0**32
"""Leaks are summed in fixed point: the sum does not depend on its order, so equal settings tie exactly."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one setting does to each of S sessions.

    Attributes
    ----------
    blocked_at : ndarray of int64, shape (S,)
        The query, counted from 1, at which UNSAFE first came; 0 where it never did.
    count : ndarray of int64, shape (S,)
        The filter's count at the end.
    """

    blocked_at: Ints
    count: Ints


@dataclass(frozen=True, eq=False)
class Totals:
    """What settings do to each of G groups; arrays have shape (G, ...), with an entry for each setting.

    Attributes
    ----------
    sessions : ndarray of int64, shape (G,)
        How many there are.
    blocked : ndarray of int64, shape (G, ...)
        How many of them were blocked.
    queries : ndarray of int64, shape (G, ...)
        Sum over the sessions of the queries to block, of the budget where the block never came.
    leak : ndarray of float64, shape (G, ...), or None
        Sum over attack sessions of what the attacker held at its last answered query, 0 for honest groups.
        None where the traces do not say.
    """

    sessions: Ints
    blocked: Ints
    queries: Ints
    leak: Floats | None


def replay(traces: TraceSet, config: FilterConfig) -> Outcome:
    """Return what a setting would have done to each session.

    Parameters
    ----------
    traces : TraceSet
        With the setting's SSIM form, its hash size, and at least `n_b` earlier queries.
    config : FilterConfig
        The setting.

    Raises
    ------
    ValueError
        Where the traces do not hold what the setting needs.

    Notes
    -----
    The first call for an SSIM form derives from the traces what later ones read, see `tuning.kernels.Pairs`.
    """
    pairs = _pairs_for(traces, config)
    outcome = Outcome(np.empty(traces.sessions, np.int64), np.empty(traces.sessions, np.int64))
    most = _most_per_query(config.count_rule)
    kernels.follow(
        pairs, _round_down(config.t_ssim), float(config.t_hash), config.n_b, config.l_sp, most,
        outcome.blocked_at, outcome.count,
    )  # fmt: skip
    return outcome


def verdicts(traces: TraceSet, session: int, config: FilterConfig) -> tuple[Bools, Ints]:
    """Return what a setting would have answered to each query of one session.

    Returns
    -------
    unsafe : ndarray of bool, shape (n,)
        From the block on for ever, as the filter does.
    count : ndarray of int64, shape (n,)
        The filter's count after the query.
    """
    pairs = _pairs_for(traces, config)
    rows = slice(traces.offsets[session], traces.offsets[session + 1])
    similar = pairs.similarity[rows, : config.n_b].astype(np.float64) > config.t_ssim
    close = pairs.gap[rows, : config.n_b] < config.t_hash
    raised = np.minimum((similar & close).sum(axis=1), _most_per_query(config.count_rule))
    count = np.minimum(np.cumsum(raised), config.l_sp)
    return count >= config.l_sp, count


def totals(traces: TraceSet, outcome: Outcome) -> Totals:
    """Return the sums over each group of what one setting does; arrays have shape (G,)."""
    groups = len(traces.groups)
    blocked = outcome.blocked_at > 0
    queries = np.where(blocked, outcome.blocked_at, traces.budget)
    leak = None
    if (fixed := _fixed_leak(traces)) is not None:
        last = np.where(blocked, traces.offsets[:-1] + outcome.blocked_at - 2, traces.offsets[1:] - 1)
        leak = _sum_by_group(traces, np.where(traces.is_attack, fixed[last], 0)) / _LEAK_STEPS
    return Totals(
        sessions=np.bincount(traces.group, minlength=groups),
        blocked=np.bincount(traces.group[blocked], minlength=groups),
        queries=_sum_by_group(traces, queries),
        leak=leak,
    )


def replay_all(
    traces: TraceSet, *, form: str, rule: str, t_ssim: float, t_hash: float, n_b_max: int, l_sp_max: int
) -> Totals:
    """Return what every setting with the given thresholds would have done to each group.

    Returns
    -------
    Totals
        Arrays have shape (G, n_b_max, l_sp_max): entry ``[g, n_b - 1, l_sp - 1]`` is `totals` of `replay`.

    Raises
    ------
    ValueError
        Where the traces do not hold the form or so many earlier queries, or the rule is none.
    """
    if not 1 <= n_b_max <= traces.n_b_max:
        raise ValueError(f"n_b_max = {n_b_max}: the traces hold 1 to {traces.n_b_max} earlier queries")
    if l_sp_max < 1:
        raise ValueError(f"l_sp_max = {l_sp_max}: must be at least 1")
    fixed = _fixed_leak(traces)
    shape = (len(traces.groups), n_b_max, l_sp_max + 1)
    blocked, spared = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    leak = frozen([], np.int64) if fixed is None else fixed
    withheld = np.zeros((0, 0, 0) if fixed is None else shape, np.int64)
    kernels.follow_all(
        prepare(traces, form), _round_down(t_ssim), float(t_hash), _most_per_query(rule), traces.group,
        traces.budget, leak, blocked, spared, withheld,
    )  # fmt: skip
    never = totals(traces, Outcome(np.zeros(traces.sessions, np.int64), np.zeros(traces.sessions, np.int64)))

    def summed(differences: Ints) -> Ints:
        return np.cumsum(differences, axis=2)[:, :, :-1]

    return Totals(
        sessions=never.sessions,
        blocked=summed(blocked),
        queries=never.queries[:, None, None] - summed(spared),
        leak=None if never.leak is None else never.leak[:, None, None] - summed(withheld) / _LEAK_STEPS,
    )


def prepare(traces: TraceSet, form: str) -> kernels.Pairs:
    """Return what the kernels read for an SSIM form; made once, and kept with the traces."""
    if form not in traces.similarity:
        raise ValueError(f"the traces hold no {form!r} similarity, only {', '.join(traces.similarity)}")
    if form not in traces.prepared:
        traces.prepared[form] = kernels.pairs(traces.offsets, traces.hashes, traces.similarity[form])
    return cast(kernels.Pairs, traces.prepared[form])


def _pairs_for(traces: TraceSet, config: FilterConfig) -> kernels.Pairs:
    if config.n_b > traces.n_b_max:
        raise ValueError(f"n_b = {config.n_b}: the traces hold only {traces.n_b_max} earlier queries")
    if config.hash_size != traces.hash_size:
        raise ValueError(f"hash_size = {config.hash_size}: the traces were taken with {traces.hash_size}")
    return prepare(traces, config.ssim)


def _most_per_query(rule: str) -> int:
    """Return by how much one query can raise the count."""
    if rule not in COUNT_RULES:
        raise ValueError(f"count_rule = {rule!r}: must be one of {', '.join(COUNT_RULES)}")
    return 1 if rule == "per_query" else 2**62


def _round_down(threshold: float) -> np.float32:
    """Return the float32 that another one exceeds exactly where it exceeds `threshold` as a float64."""
    rounded = np.float32(threshold)
    return rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf))


def _fixed_leak(traces: TraceSet) -> Ints | None:
    if traces.leak is None:
        return None
    if "leak" not in traces.prepared:
        lengths = np.diff(traces.offsets)
        if (empty := np.flatnonzero(traces.is_attack & (lengths == 0))).size:
            raise ValueError(f"attack session {empty[0]} has no query: nothing is known of what it leaked")
        leak = np.where(np.repeat(traces.is_attack, lengths), traces.leak, 0.0)
        if not ((leak >= 0) & (leak <= 1)).all():
            raise ValueError("leak must lie in [0, 1] for every query of an attack")
        traces.prepared["leak"] = frozen(np.rint(leak * _LEAK_STEPS), np.int64)
    return cast(Ints, traces.prepared["leak"])


def _sum_by_group(traces: TraceSet, values: npt.NDArray[np.int64]) -> Ints:
    sums = np.zeros(len(traces.groups), np.int64)
    np.add.at(sums, traces.group, values)
    return sums
