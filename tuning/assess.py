"""What a configuration does to sessions that neither search nor certification saw: its unbiased figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mifsim.defense import DetectorConfig
from mifsim.statistics import Survival, clopper_pearson, kaplan_meier
from tuning.replay import Replay, replay
from tuning.tracedata import TraceSet


@dataclass(frozen=True, eq=False)
class GroupFigures:
    """What became of one group.

    Attributes
    ----------
    group : str
        Name of the attack or workload.
    is_attack : bool
        Which of the two.
    sessions, blocked : int
        How many there are, and how many of them were blocked.
    low, high : float
        Exact (Clopper-Pearson) interval of the share blocked; of a workload that is its false-positive rate.
    curve : Survival
        Kaplan-Meier estimate of the share still open; sessions never blocked are censored at their budget.
    queries : float
        Restricted mean queries to block: the area under the curve up to the largest budget of the group.
    """

    group: str
    is_attack: bool
    sessions: int
    blocked: int
    low: float
    high: float
    curve: Survival
    queries: float


def assess(
    traces: TraceSet, config: DetectorConfig, confidence: float = 0.95, replay: Replay = replay
) -> tuple[GroupFigures, ...]:
    """Return the figures of each group of which there are sessions.

    Parameters
    ----------
    traces : TraceSet
        The test split.
    config : DetectorConfig
    confidence : float
        Of the intervals and bands, in (0, 1).
    replay : callable
        Says what the configuration does to each session.

    Returns
    -------
    tuple of GroupFigures
        In the order of ``traces.groups``.
    """
    blocked_at = replay(traces, config).blocked_at
    queries = np.where(blocked_at > 0, blocked_at, traces.budget)
    figures = []
    for g in np.unique(traces.group).tolist():
        members = traces.group == g
        sessions, blocked = int(members.sum()), int((blocked_at[members] > 0).sum())
        low, high = clopper_pearson(blocked, sessions, confidence)
        curve = kaplan_meier(queries[members], blocked_at[members] > 0, confidence)
        figures.append(
            GroupFigures(
                group=traces.groups[g],
                is_attack=g in traces.attack_groups,
                sessions=sessions,
                blocked=blocked,
                low=low,
                high=high,
                curve=curve,
                queries=curve.restricted_mean(float(traces.budget[members].max())),
            )
        )
    return tuple(figures)
