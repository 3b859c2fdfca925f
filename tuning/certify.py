"""Certification of false-positive limits by Learn then Test.

Each candidate has a null hypothesis: *for at least one workload, the false-positive rate exceeds the workload's limit*.
On sessions that the search did not use, the number of blocked sessions of a workload is binomial, which gives an exact
p-value for each workload. The largest of them is a p-value for the hypothesis, which is true if any rate is too high.
A procedure that controls the family-wise error at delta certifies no candidate wrongly with probability 1 - delta. This
holds for dependent tests (they share the sessions), and therefore for any choice among the certified candidates, made
on any data. Only the order of testing must come from other data.

Holm's procedure requires a p-value near delta / J from each of J candidates, and so far more than the 299 sessions that
a single test of a 1% limit at 95% confidence needs. The fixed-sequence procedure tests each candidate at the full
delta, but stops at the first failure, so the order matters. `order_of_testing` puts the most conservative candidate
first and each faster one after it.

References
----------
Angelopoulos, Bates, Candes, Jordan and Lei, *Learn then Test: Calibrating Predictive Algorithms to Achieve
Risk Control* (2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mifsim.defense import DetectorConfig
from mifsim.statistics import SessionsNeeded, sessions_needed
from tuning.hypotheses import fixed_sequence, holm, p_values
from tuning.objectives import NO_LIVE, Attack, evaluate
from tuning.replay import Replay, replay
from tuning.tracedata import Bools, Floats, Ints, TraceSet

Method = Literal["fixed_sequence", "holm"]

STEPS = (1.1, 1.25, 1.5, 2.0, 3.0)
"""Factors by which thresholds are moved, to make conservative candidates and to measure a candidate's margin."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """Result of testing J candidates on W workloads.

    Attributes
    ----------
    configs : tuple of DetectorConfig
        The candidates, in the given order.
    workloads : tuple of str
        Names of the workloads.
    limits : ndarray of float64, shape (W,)
        Limit of each workload's false-positive rate, in (0, 1).
    delta : float
        Upper bound of the probability that any certified candidate exceeds a limit, in (0, 1).
    method : {"fixed_sequence", "holm"}
        Procedure that controls the family-wise error.
    sessions : ndarray of int64, shape (W,)
        Number of sessions of each workload in the calibration split that were tested: one of each client.
    longest : ndarray of int64, shape (W,)
        Number of queries of the longest of these sessions.
    blocked : ndarray of int64, shape (J, W)
        Number of these sessions that each candidate blocks.
    p : ndarray of float64, shape (J,)
        P-value of each candidate, also of those that were not tested.
    order : tuple of int
        Indices of the tested candidates, in the order of testing.
    certified : ndarray of bool, shape (J,)
        Whether each candidate was certified.
    queries : ndarray of float64, shape (J,)
        Restricted mean queries to block of each candidate on the search split.
    sampled : tuple of str
        Workloads whose clients have several sessions, of which one was tested.
    """

    configs: tuple[DetectorConfig, ...]
    workloads: tuple[str, ...]
    limits: Floats
    delta: float
    method: Method
    sessions: Ints
    longest: Ints
    blocked: Ints
    p: Floats
    order: tuple[int, ...]
    certified: Bools
    queries: Floats
    sampled: tuple[str, ...] = ()

    @property
    def chosen(self) -> int | None:
        """Index of the certified candidate with the fewest queries to block, ties broken by testing order, or None.

        None: no candidate is certified. Queries are those on the search split. The guarantee allows any data for this
        choice; the search split keeps the test split unused, and so its figures unbiased.
        """
        passed = [j for j in self.order if self.certified[j]]
        return min(passed, key=lambda j: self.queries[j]) if passed else None

    @property
    def sessions_needed(self) -> dict[str, SessionsNeeded]:
        """Total number of sessions of each workload that one candidate needs to be certified.

        The candidate is the first of the fixed sequence; under Holm's procedure, the one with the smallest p-value.
        """
        nearest, level = self.order[0], self.delta
        if self.method == "holm":
            nearest, level = min(self.order, key=lambda j: self.p[j]), self.delta / len(self.order)
        return {
            name: sessions_needed(int(blocked), int(sessions), float(limit), level)
            for name, blocked, sessions, limit in zip(
                self.workloads, self.blocked[nearest], self.sessions, self.limits, strict=True
            )
        }


def certify(
    search: TraceSet,
    held_out: TraceSet,
    configs: Sequence[DetectorConfig],
    limits: float | Mapping[str, float],
    *,
    delta: float = 0.05,
    method: Method = "fixed_sequence",
    attack: Attack = "worst",
    live: Floats | None = None,
    replay: Replay = replay,
) -> Certificate:
    """Test candidates on sessions that the search did not use.

    Parameters
    ----------
    search, held_out : TraceSet
        The search split and the calibration split. No client has sessions in both.
    configs : sequence of DetectorConfig
        The J candidates. A Pareto front alone contains few that can pass; see `conservative`.
    limits : float, or mapping of str to float
        The highest accepted false-positive rate, in (0, 1): one for all workloads, or one for each by name.
    delta : float
        Family-wise error, in (0, 1); 0.05 for 95% confidence.
    method : {"fixed_sequence", "holm"}
        Procedure that controls the family-wise error.
    attack : {"worst", "mean", "geometric"}
        How the queries to block of several attacks are combined; see `tuning.objectives.Attack`.
    live : ndarray of shape (J, L), optional
        Queries to block of L closed-loop attacks under each candidate; see `tuning.objectives.objectives`.
    replay : callable
        Returns the outcome of a configuration for each session.

    Returns
    -------
    Certificate
        The tested candidates, their p-values and which of them are certified.

    Raises
    ------
    ValueError
        If there is no candidate, `delta`, `method` or a limit is not valid, `limits` does not name exactly the
        workloads, or the splits differ in their groups or share a client.

    Notes
    -----
    The test treats the sessions of a workload as independent draws from the sessions that the detector will see. The
    guarantee applies to such sessions. The sessions of one client are not independent, so that of each client only one
    session is tested (`TraceSet.one_per_client`); every client counts the same, however often it returns.
    """
    if not configs:
        raise ValueError("configs: empty; certification needs at least one configuration")
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta}: must lie between 0 and 1")
    if method not in ("fixed_sequence", "holm"):
        raise ValueError(f"method = {method!r}: must be fixed_sequence or holm")
    if search.groups != held_out.groups:
        raise ValueError(f"the splits have different groups: {search.groups} and {held_out.groups}")
    if (both := np.intersect1d(search.clients, held_out.clients)).size:
        raise ValueError(f"client {str(both[0])!r} has sessions in both splits (expected in one)")
    honest = sorted({*search.honest_groups, *held_out.honest_groups})
    bounds = _limits(limits, tuple(search.groups[g] for g in honest))
    order, queries = order_of_testing(search, configs, dict(zip(honest, bounds, strict=True)), attack, live, replay)
    tested = held_out.one_per_client
    sessions = np.bincount(held_out.group[tested], minlength=len(held_out.groups))[honest]
    longest = np.zeros(len(held_out.groups), np.int64)
    np.maximum.at(longest, held_out.group[tested], np.diff(held_out.offsets)[tested])
    blocked = np.stack([_blocked(held_out, config, replay, tested)[honest] for config in configs])
    p = p_values(blocked, sessions, bounds)
    certified = np.zeros(len(configs), dtype=np.bool_)
    certified[list(order)] = (fixed_sequence if method == "fixed_sequence" else holm)(p[list(order)], delta)
    return Certificate(
        configs=tuple(configs),
        workloads=tuple(search.groups[g] for g in honest),
        limits=bounds,
        delta=delta,
        method=method,
        sessions=sessions,
        longest=longest[honest],
        blocked=blocked,
        p=p,
        order=order,
        certified=certified,
        queries=queries,
        sampled=tuple(search.groups[g] for g in honest if (held_out.group[~tested] == g).any()),
    )


def conservative(configs: Sequence[DetectorConfig]) -> tuple[DetectorConfig, ...]:
    """Return the configurations, followed by copies that block less; see `DetectorConfig.conservative`.

    The configurations of a Pareto front are selected on the search split, so their false-positive rates on new sessions
    are often higher. Copies that block less are only slightly slower, and more likely to pass the test.
    """
    copies = [copy for config in configs for copy in config.conservative(STEPS)]
    return tuple(dict.fromkeys([*configs, *copies]))


def order_of_testing(
    search: TraceSet,
    configs: Sequence[DetectorConfig],
    limits: Mapping[int, float],
    attack: Attack = "worst",
    live: Floats | None = None,
    replay: Replay = replay,
) -> tuple[tuple[int, ...], Floats]:
    """Determine the order of testing on the search split: the most conservative candidate first, then faster ones.

    Candidates are sorted by four criteria, each used only if those before it are equal:

    1. the p-value on the search split (equal for all candidates that block no session there);
    2. the largest `Outcome.nearness` of an honest session that was not blocked;
    3. the false-positive rates of increasingly strict copies, relative to the limits (only for kinds with a replay);
    4. the queries to block, in descending order.

    A candidate that is not faster than an earlier one is left out: it cannot be chosen, and its failure would end the
    sequence.

    Parameters
    ----------
    search : TraceSet
        The search split.
    configs : sequence of DetectorConfig
        The J candidates.
    limits : mapping of int to float
        The limit of each honest group, by the group's index.
    attack, live, replay
        See `certify`.

    Returns
    -------
    order : tuple of int
        Indices of the candidates to test, in order.
    queries : ndarray of float64, shape (J,)
        Restricted mean queries to block of all candidates.
    """
    groups, bounds = list(limits), np.array(list(limits.values()))
    sessions = np.bincount(search.group, minlength=len(search.groups))[groups]
    live_rows = [NO_LIVE] * len(configs) if live is None else live
    evaluations = [
        evaluate(search, config, attack, live_queries, replay)
        for config, live_queries in zip(configs, live_rows, strict=True)
    ]
    queries = np.array([evaluation.queries for evaluation in evaluations])

    def risk(j: int) -> tuple[float, ...]:
        outcome = evaluations[j].outcome
        not_blocked = ~search.is_attack & (outcome.blocked_at == 0)
        nearest_miss = float(outcome.nearness[not_blocked].max(initial=0.0))
        excess = []
        for step in STEPS if configs[j].replayable() else ():  # running each copy live would take too long
            blocked = _blocked(search, configs[j].stricter(step), replay)[groups]
            excess.append(float((blocked / np.maximum(sessions, 1) / bounds).max()))
        p = float(p_values(evaluations[j].totals.blocked[groups], sessions, bounds))
        return p, nearest_miss, *excess, -queries[j]

    order: list[int] = []
    for j in sorted(range(len(configs)), key=risk):
        if not order or queries[j] < queries[order[-1]]:
            order.append(j)
    return tuple(order), queries


def _blocked(traces: TraceSet, config: DetectorConfig, replay: Replay, counted: Bools | None = None) -> Ints:
    blocked = replay(traces, config).blocked_at > 0
    if counted is not None:
        blocked &= counted
    return np.bincount(traces.group[blocked], minlength=len(traces.groups))


def _limits(limits: float | Mapping[str, float], workloads: tuple[str, ...]) -> Floats:
    if not isinstance(limits, Mapping):
        limits = dict.fromkeys(workloads, limits)
    if set(limits) != set(workloads):
        raise ValueError(
            f"limits: given for {', '.join(limits) or 'no workload'} (expected exactly {', '.join(workloads)})"
        )
    for name, limit in limits.items():
        if not 0 < limit < 1:
            raise ValueError(f"limits: {name} = {limit}: must lie between 0 and 1")
    return np.array([limits[name] for name in workloads], dtype=np.float64)
