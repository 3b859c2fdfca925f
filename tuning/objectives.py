"""What a configuration is judged by.

Two numbers are minimised. *False-positive rate*: the share of honest sessions blocked, of the worst workload.
*Queries to block*: the restricted mean over the sessions of an attack, each counted as its budget where it
was never blocked; of the worst attack, or the mean over the attacks. A third may be asked for: *leakage at
block*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mifsim.defense import DetectorConfig, Outcome
from tuning.replay import Replay, Totals, replay, totals
from tuning.tracedata import Floats, Ints, TraceSet

Attack = Literal["worst", "mean"]
"""Which attack a configuration is judged by: the one it stops last, or the mean, each attack of the same weight."""


NO_LIVE: Floats = np.empty(0)


@dataclass(frozen=True)
class Evaluation:
    """What one configuration does.

    Attributes
    ----------
    false_positive_rate : float
        Of the worst honest workload, in [0, 1].
    queries : float
        Restricted mean queries to block, at least 1.
    leak : float or None
        Mean leakage at block, in [0, 1]; None where the traces do not say.
    totals : Totals
        The sums over each group from which these follow.
    outcome : Outcome
        What it does to each session.
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
    """Replay one configuration and return what it does; `live` as in `objectives`.

    Raises
    ------
    ValueError
        Where the traces hold no attack or no honest session, or not what the configuration needs.
    """
    outcome = replay(traces, config)
    sums = totals(traces, outcome.blocked_at)
    rate, queries, *leak = objectives(traces, sums, attack, leakage=traces.leak is not None, live=live)
    return Evaluation(float(rate), float(queries), float(leak[0]) if leak else None, sums, outcome)


def objectives(
    traces: TraceSet, sums: Totals, attack: Attack = "worst", *, leakage: bool = False, live: Floats = NO_LIVE
) -> Floats:
    """Return what is minimised, from the sums over each group.

    Parameters
    ----------
    traces : TraceSet
        Of which `sums` are.
    sums : Totals
        Arrays of shape (G, ...).
    attack : {"worst", "mean"}
        See `Attack`; for the leakage too.
    leakage : bool
        Whether leakage at block is the third objective.
    live : ndarray of shape (L,)
        Restricted mean queries to block of attacks that are not in the traces: closed-loop ones, see `tuning.live`.

    Returns
    -------
    ndarray of shape (2 or 3, ...)
        False-positive rate, queries to block and, if asked for, leakage at block.
    """
    honest, attacks = list(traces.honest_groups), list(traces.attack_groups)
    if not honest or not (attacks or live.size):
        missing = "attack" if honest else "honest"
        raise ValueError(f"the traces hold no {missing} session: there is nothing to trade")
    if attack not in ("worst", "mean"):
        raise ValueError(f"attack = {attack!r}: must be worst or mean")

    def mean(values: Ints | Floats, groups: list[int]) -> Floats:
        sessions: Floats = sums.sessions[groups].astype(np.float64)
        return values[groups] / sessions.reshape(-1, *(1 for _ in values.shape[1:]))

    of_attacks = np.max if attack == "worst" else np.mean
    replayed = mean(sums.queries, attacks)
    beside = np.broadcast_to(live.reshape(-1, *(1 for _ in replayed.shape[1:])), (live.size, *replayed.shape[1:]))
    found = [mean(sums.blocked, honest).max(axis=0), of_attacks(np.concatenate([replayed, beside]), axis=0)]
    if leakage:
        if sums.leak is None:
            raise ValueError("the traces do not say what leaked")
        found.append(of_attacks(mean(sums.leak, attacks), axis=0))
    return np.stack(found)


def attack_budget(traces: TraceSet) -> int:
    """Return the largest budget of an attack session: the scale of queries to block."""
    return int(traces.budget[traces.is_attack].max())
