"""Replay of recorded sessions under a configuration, and sums of the outcomes over groups.

A detector only answers a client or ends its session. So the queries of an open-loop client up to the block are the same
under every configuration, and the outcome of each configuration follows exactly from the recording. Each kind of
detector implements this in `DetectorConfig.replay`. For a kind without a replay, the sessions run live instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from mifsim.defense import DetectorConfig, Outcome
from mifsim.defense.recording import HonestSessions, SessionWeights, frozen
from mifsim.study import Tuning
from tuning.tracedata import Floats, Ints, TraceSet

_LEAK_STEPS = 2.0**32
"""Fixed-point scale of leakage. Integer sums do not depend on the order, so equal configurations tie exactly."""

Replay = Callable[[TraceSet, DetectorConfig], Outcome]
"""Returns the outcome of a configuration for each session: `replay`, or a live run for kinds without a replay."""


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums of outcomes over each of G groups; arrays have shape (G, ...), with one entry for each configuration.

    Attributes
    ----------
    sessions : ndarray of int64, shape (G,)
        Number of sessions.
    blocked : ndarray of int64, shape (G, ...)
        Number of blocked sessions.
    queries : ndarray of int64, shape (G, ...)
        Sum of the queries to block over the sessions; a session that is never blocked counts as its budget.
    leak : ndarray of float64, shape (G, ...), or None
        Sum over attack sessions of the leakage at the last answered query; 0 for honest groups. None if the traces
        contain no leakage.
    """

    sessions: Ints
    blocked: Ints
    queries: Ints
    leak: Floats | None


def replay(traces: TraceSet, config: DetectorConfig) -> Outcome:
    """Return the outcome of a configuration for each recorded session.

    Raises
    ------
    ValueError
        If the traces contain no recording that the configuration can be replayed from.
    """
    outcome = config.replay(traces.recorded(config))
    return _of_sessions(traces, outcome) if traces.by_client(config) else outcome


def _of_sessions(traces: TraceSet, clients: Outcome) -> Outcome:
    """Return the outcome of each session, given the outcome of all queries of each client.

    The sessions before that of the block are not blocked; a blocked client is refused at the first query of each later
    session.
    """
    starts = traces.client_starts
    client = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, traces.sessions)))
    before = traces.offsets[:-1] - traces.offsets[starts][client]  # queries of the client's earlier sessions
    lengths = np.diff(traces.offsets)
    at = clients.blocked_at[client]
    within = np.where(at > before + lengths, 0, np.maximum(at - before, 1))
    blocked_at = np.where((at > 0) & (lengths > 0), within, 0)
    return Outcome(blocked_at.astype(np.int64), clients.nearness[client])


def totals(traces: TraceSet, blocked_at: Ints) -> Totals:
    """Return the sums over each group of one configuration's outcomes; arrays have shape (G,).

    Parameters
    ----------
    traces : TraceSet
        The S sessions.
    blocked_at : ndarray of int64, shape (S,)
        The query, from 1, at which each session is blocked, or 0; see `Outcome`.

    Raises
    ------
    ValueError
        If the leakage is outside [0, 1], or an attack session with leakage has no query.
    """
    groups = len(traces.groups)
    blocked = blocked_at > 0
    queries = np.where(blocked, blocked_at, traces.budget)
    leak = None
    if (fixed := _fixed_leak(traces)) is not None:
        last = np.where(blocked, traces.offsets[:-1] + blocked_at - 2, traces.offsets[1:] - 1)
        answered = traces.is_attack & (blocked_at != 1)  # a session blocked at its first query has leaked nothing
        leak = _sum_by_group(traces, np.where(answered, fixed[last], 0)) / _LEAK_STEPS
    return Totals(
        sessions=np.bincount(traces.group, minlength=groups),
        blocked=np.bincount(traces.group[blocked], minlength=groups),
        queries=_sum_by_group(traces, queries),
        leak=leak,
    )


def replay_swept(traces: TraceSet, config: DetectorConfig, most: Mapping[str, int]) -> Totals:
    """Return the sums over each group for all values of the swept parameters; the other parameters are as in `config`.

    Parameters
    ----------
    traces : TraceSet
        The sessions.
    config : DetectorConfig
        A configuration of a kind with swept parameters; see `DetectorConfig.swept`.
    most : mapping of str to int
        The largest value of each swept parameter. All values from 1 to it are replayed.

    Returns
    -------
    Totals
        Arrays have shape (G, *most). Entry ``[g, i - 1, ...]`` equals that of `totals` for a configuration with the
        value i of the first swept parameter.
    """
    if traces.by_client(config):
        raise ValueError("replay_swept sums over sessions, but the configuration keeps its state over several of them")
    fixed = _fixed_leak(traces)
    leak = frozen([], np.int64) if fixed is None else fixed
    weights = SessionWeights(traces.group, len(traces.groups), traces.budget, leak)
    sums = config.replay_swept(traces.recorded(config), weights, most)
    never = totals(traces, np.zeros(traces.sessions, np.int64))
    one_each = (slice(None), *(None for _ in config.swept))
    return Totals(
        sessions=never.sessions,
        blocked=sums.blocked,
        queries=never.queries[one_each] - sums.spared,
        leak=None
        if never.leak is None or sums.withheld is None
        else never.leak[one_each] - sums.withheld / _LEAK_STEPS,
    )


def honest_sessions(traces: TraceSet, tuning: Tuning) -> HonestSessions | None:
    """Return the honest sessions of a split, for a search space that derives its configurations from them, or None."""
    space = tuning.search_space
    if not space.derived:
        return None
    honest = traces.subset(~traces.is_attack)
    recorded = honest.recorded(space.corners()[0])
    workloads = honest.honest_groups
    number = {group: place for place, group in enumerate(workloads)}
    groups = honest.group[honest.client_starts] if honest.by_client(space) else honest.group
    return HonestSessions(
        recorded,
        np.array([number[group] for group in groups.tolist()], dtype=np.int32),
        tuple(tuning.limit(honest.groups[group]) for group in workloads),
    )


def _fixed_leak(traces: TraceSet) -> Ints | None:
    if traces.leak is None:
        return None
    if "leak" not in traces.prepared:
        lengths = np.diff(traces.offsets)
        if (empty := np.flatnonzero(traces.is_attack & (lengths == 0))).size:
            raise ValueError(f"attack session {empty[0]} has no query, so its leakage is unknown (expected at least 1)")
        leak = np.where(np.repeat(traces.is_attack, lengths), traces.leak, 0.0)
        if not ((leak >= 0) & (leak <= 1)).all():
            raise ValueError("leak must lie in [0, 1] for every query of an attack session")
        traces.prepared["leak"] = frozen(np.rint(leak * _LEAK_STEPS), np.int64)
    return cast(Ints, traces.prepared["leak"])


def _sum_by_group(traces: TraceSet, values: npt.NDArray[np.int64]) -> Ints:
    sums = np.zeros(len(traces.groups), np.int64)
    np.add.at(sums, traces.group, values)
    return sums
