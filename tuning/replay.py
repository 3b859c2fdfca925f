"""What a configuration would have done to recorded sessions, summed over populations.

A detector only answers a client or ends its session, so the queries of an open-loop client up to the block are the same
whatever the configuration. What each configuration would have done follows from the recording exactly; how, every kind
of detector knows itself (`DetectorConfig.replay`). For a kind without a replay the sessions run live instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from mifsim.defense import DetectorConfig, Outcome
from mifsim.defense.recording import SessionWeights, frozen
from tuning.tracedata import Floats, Ints, TraceSet

_LEAK_STEPS = 2.0**32
"""Leaks are summed in fixed point: the sum does not depend on its order, so equal configurations tie exactly."""

Replay = Callable[[TraceSet, DetectorConfig], Outcome]
"""Says what a configuration does to each session: `replay`, or a live run for kinds that have none."""


@dataclass(frozen=True, eq=False)
class Totals:
    """What configurations do to each of G groups; arrays have shape (G, ...), with an entry for each configuration.

    Attributes
    ----------
    sessions : ndarray of int64, shape (G,)
        How many there are.
    blocked : ndarray of int64, shape (G, ...)
        How many of them were blocked.
    queries : ndarray of int64, shape (G, ...)
        Sum over the sessions of the queries to block, of the budget where the block never came.
    leak : ndarray of float64, shape (G, ...), or None
        Sum over attack sessions of the leakage at the last answered query, 0 for honest groups.
        None where the traces do not say.
    """

    sessions: Ints
    blocked: Ints
    queries: Ints
    leak: Floats | None


def replay(traces: TraceSet, config: DetectorConfig) -> Outcome:
    """Return what a configuration would have done to each session.

    Raises
    ------
    ValueError
        Where the traces do not hold what the configuration needs.
    """
    return config.replay(traces.recorded(config))


def totals(traces: TraceSet, blocked_at: Ints) -> Totals:
    """Return the sums over each group of what one configuration does; arrays have shape (G,).

    Parameters
    ----------
    traces : TraceSet
    blocked_at : ndarray of int64, shape (S,)
        See `Outcome`.
    """
    groups = len(traces.groups)
    blocked = blocked_at > 0
    queries = np.where(blocked, blocked_at, traces.budget)
    leak = None
    if (fixed := _fixed_leak(traces)) is not None:
        last = np.where(blocked, traces.offsets[:-1] + blocked_at - 2, traces.offsets[1:] - 1)
        answered = traces.is_attack & (blocked_at != 1)  # before its first query, a session has leaked nothing
        leak = _sum_by_group(traces, np.where(answered, fixed[last], 0)) / _LEAK_STEPS
    return Totals(
        sessions=np.bincount(traces.group, minlength=groups),
        blocked=np.bincount(traces.group[blocked], minlength=groups),
        queries=_sum_by_group(traces, queries),
        leak=leak,
    )


def replay_swept(traces: TraceSet, config: DetectorConfig, most: Mapping[str, int]) -> Totals:
    """Return what every value of a kind's swept parameters would have done to each group, the others as in `config`.

    Parameters
    ----------
    traces : TraceSet
    config : DetectorConfig
        Of a kind that sweeps (see `DetectorConfig.swept`).
    most : mapping of str to int
        The greatest value of each swept parameter; all from 1 on are tried.

    Returns
    -------
    Totals
        Arrays have shape (G, *most): entry ``[g, i - 1, ...]`` is that of `totals` of `replay`.
    """
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
