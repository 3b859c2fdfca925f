"""Objectives of the search, all minimised.

*False-positive rate*: the share of blocked sessions of the worst honest workload.
*Queries to block*: the restricted mean over the sessions of an attack, for the worst attack or as the arithmetic or
geometric mean of all attacks. A session that is never blocked counts as its budget.
*Leakage at block* (optional): the mean leakage at the last answered query, for the worst attack or as the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mifsim.defense import DetectorConfig, Outcome
from tuning.replay import Replay, Totals, replay, totals
from tuning.tracedata import Floats, Ints, TraceSet

Attack = Literal["worst", "mean", "geometric"]
"""How the queries to block of several attacks are combined: their maximum, arithmetic mean or geometric mean.

The arithmetic mean is dominated by the attacks that are blocked last. In the geometric mean, it counts as much to block
one attack after half as many queries as another.
"""


_COMBINE: dict[str, Callable[[Floats], Floats]] = {
    "worst": lambda values: np.asarray(values.max(axis=0)),
    "mean": lambda values: np.asarray(values.mean(axis=0)),
    "geometric": lambda values: np.exp(np.log(values).mean(axis=0)),
}

NO_LIVE: Floats = np.empty(0)
"""Queries to block of closed-loop attacks for a study that has none; shape (0,)."""


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of one configuration.

    Attributes
    ----------
    false_positive_rate : float
        False-positive rate of the worst honest workload, in [0, 1].
    queries : float
        Restricted mean queries to block, at least 1.
    leak : float or None
        Mean leakage at block, in [0, 1]; None if the traces contain no leakage.
    totals : Totals
        The sums over each group from which the objectives are computed.
    outcome : Outcome
        The outcome of each session.
    """

    false_positive_rate: float
    queries: float
    leak: float | None
    totals: Totals
    outcome: Outcome


def evaluate(
    traces: TraceSet,
    config: DetectorConfig,
    attack: Attack = "worst",
    live: Floats = NO_LIVE,
    replay: Replay = replay,
) -> Evaluation:
    """Replay one configuration and compute its objectives.

    Parameters
    ----------
    traces : TraceSet
        The sessions.
    config : DetectorConfig
        The configuration.
    attack, live
        See `objectives`.
    replay : callable
        Returns the outcome of a configuration for each session.

    Returns
    -------
    Evaluation
        The objectives, and the values from which they are computed.

    Raises
    ------
    ValueError
        If the traces contain no attack session or no honest session, or not the recording that the configuration needs.
    """
    outcome = replay(traces, config)
    sums = totals(traces, outcome.blocked_at)
    rate, queries, *leak = objectives(traces, sums, attack, leakage=traces.leak is not None, live=live)
    return Evaluation(float(rate), float(queries), float(leak[0]) if leak else None, sums, outcome)


def objectives(
    traces: TraceSet, sums: Totals, attack: Attack = "worst", *, leakage: bool = False, live: Floats = NO_LIVE
) -> Floats:
    """Compute the objectives from the sums over each group.

    Parameters
    ----------
    traces : TraceSet
        The sessions over which `sums` were computed.
    sums : Totals
        Sums over G groups; arrays of shape (G, ...), with one entry for each configuration.
    attack : {"worst", "mean", "geometric"}
        How the queries to block (and the leakage) of several attacks are combined; see `Attack`.
    leakage : bool
        Whether leakage at block is the third objective.
    live : ndarray of shape (L,)
        Restricted mean queries to block of L attacks that are not in the traces: the closed-loop ones, see
        `tuning.live`.

    Returns
    -------
    ndarray of float64, shape (2 or 3, ...)
        False-positive rate in [0, 1], queries to block of at least 1 and, with `leakage`, leakage at block in [0, 1].

    Raises
    ------
    ValueError
        If there is no attack session or no honest session, `attack` is not valid, or `leakage` is set and the traces
        contain no leakage.
    """
    honest, attacks = list(traces.honest_groups), list(traces.attack_groups)
    if not honest or not (attacks or live.size):
        missing = "attack" if honest else "honest"
        raise ValueError(f"the traces contain no {missing} session (expected attack sessions and honest sessions)")
    if attack not in _COMBINE:
        raise ValueError(f"attack = {attack!r}: must be {', '.join(_COMBINE)}")

    def mean(values: Ints | Floats, groups: list[int]) -> Floats:
        sessions: Floats = sums.sessions[groups].astype(np.float64)
        return values[groups] / sessions.reshape(-1, *(1 for _ in values.shape[1:]))

    replayed = mean(sums.queries, attacks)
    run_live = np.broadcast_to(live.reshape(-1, *(1 for _ in replayed.shape[1:])), (live.size, *replayed.shape[1:]))
    values = [mean(sums.blocked, honest).max(axis=0), _COMBINE[attack](np.concatenate([replayed, run_live]))]
    if leakage:
        if sums.leak is None:
            raise ValueError("leakage = True: the traces contain no leakage; record the study with leakage.enabled")
        leaked = mean(sums.leak, attacks)
        values.append(leaked.max(axis=0) if attack == "worst" else leaked.mean(axis=0))
    return np.stack(values)


def attack_budget(traces: TraceSet) -> int:
    """Return the largest query budget of an attack session, which is the scale of queries to block."""
    return int(traces.budget[traces.is_attack].max())
