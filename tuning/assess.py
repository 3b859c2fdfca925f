"""Unbiased figures of a configuration, from sessions that neither the search nor the certification used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mifsim.defense import DetectorConfig
from mifsim.statistics import Survival, kaplan_meier, rate_interval
from tuning.replay import Replay, replay
from tuning.tracedata import TraceSet


@dataclass(frozen=True, eq=False)
class GroupFigures:
    """Figures of a configuration for one group of sessions.

    Attributes
    ----------
    group : str
        Name of the attack or workload.
    is_attack : bool
        Whether the group is an attack.
    sessions, blocked : int
        Number of sessions, and number of blocked sessions.
    low, high : float
        Exact (Clopper-Pearson) interval of the blocked share, in [0, 1]. For a workload, this share is the
        false-positive rate.
    curve : Survival
        Kaplan-Meier estimate of the share of sessions not blocked yet. Sessions that are never blocked are censored at
        their budget.
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
    """Return the figures of each group that has sessions.

    Parameters
    ----------
    traces : TraceSet
        The test split.
    config : DetectorConfig
        The configuration.
    confidence : float
        Confidence of the intervals and of the curve's band, in (0, 1).
    replay : callable
        Returns the outcome of a configuration for each session.

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
        clients = int((traces.session_numbers[members] == 1).sum()) if g in traces.honest_groups else sessions
        low, high = rate_interval(blocked, sessions, clients, confidence)
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
