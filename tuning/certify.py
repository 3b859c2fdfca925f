"""From configurations that looked good to one with a guarantee: Learn then Test.

Every candidate stands for a null hypothesis: *for some workload, its false-positive rate exceeds that
workload's limit*. On sessions that the search never saw, the blocked ones of a workload are binomial; that
gives an exact p-value for each workload, and the greatest of them is one for the hypothesis, which is true as
soon as one rate is too high. A procedure that controls the family-wise error at delta certifies no candidate
wrongly, with probability 1 - delta, however dependent the tests are (they share the sessions). The same then
holds of whatever is chosen among the certified, by whatever data: only the order must come from elsewhere.

Holm's procedure asks each of J candidates for a p-value near delta / J, and so for far more sessions than the
299 that one test at 1% and 95% needs. The fixed sequence tests each at the whole of delta, but ends at the
first that fails: its order decides. Here it is the most conservative first, each next one faster: `order_of_testing`.

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

_STEPS = (1.1, 1.25, 1.5, 2.0, 3.0)
"""By how much thresholds are moved: to make more conservative candidates, and to see how close to the edge one is."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """What was tested, and what passed; J candidates, W workloads.

    Attributes
    ----------
    configs : tuple of DetectorConfig
        The candidates, as given.
    workloads : tuple of str
        Whose false-positive rates are limited.
    limits : ndarray of shape (W,)
        The rates that must not be exceeded.
    delta : float
        Chance that a certified configuration exceeds one all the same, at most.
    method : {"fixed_sequence", "holm"}
        How that is controlled.
    sessions : ndarray of int64, shape (W,)
        Of the calibration split.
    blocked : ndarray of int64, shape (J, W)
        How many of them each candidate blocks.
    p : ndarray of shape (J,)
        P-value of each candidate, also of those that are not tested.
    order : tuple of int
        Which candidates were tested, in order.
    certified : ndarray of bool, shape (J,)
        Which of them passed.
    queries : ndarray of shape (J,)
        Restricted mean queries to block, on the search split.
    """

    configs: tuple[DetectorConfig, ...]
    workloads: tuple[str, ...]
    limits: Floats
    delta: float
    method: Method
    sessions: Ints
    blocked: Ints
    p: Floats
    order: tuple[int, ...]
    certified: Bools
    queries: Floats

    @property
    def chosen(self) -> int | None:
        """Index of the fastest certified candidate, of equals the first tested; None where none is.

        Speed is that on the search split. The guarantee would allow any data; these have the attacks that the
        order was learned on, and leave those of the test split for unbiased figures.
        """
        passed = [j for j in self.order if self.certified[j]]
        return min(passed, key=lambda j: self.queries[j]) if passed else None

    @property
    def sessions_needed(self) -> dict[str, SessionsNeeded]:
        """How many sessions of each workload, in all, the first candidate of the sequence needs to pass.

        Under Holm's procedure: the one with the least p-value.
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
    """Test candidates on sessions that the search never saw.

    Parameters
    ----------
    search, held_out : TraceSet
        The search and the calibration split: no client has sessions in both.
    configs : sequence of DetectorConfig
        Candidates; see `conservative`: a Pareto front alone has hardly any that can pass.
    limits : float, or mapping of workload to float
        The greatest false-positive rate that is accepted, in (0, 1), for all workloads or for each.
    delta : float
        In (0, 1): 0.05 for 95% confidence.
    method : {"fixed_sequence", "holm"}
        How the family-wise error is controlled.
    attack : {"worst", "mean"}
        By which attack speed is judged.
    live : ndarray of shape (J, L), optional
        Of each candidate: see `tuning.objectives.objectives`.
    replay : callable
        Says what a configuration does to each session.

    Raises
    ------
    ValueError
        Where there is no candidate, a limit is missing or has no workload, or the splits share a client.

    Notes
    -----
    The sessions of a workload are taken for independent draws from those that the detector will meet: the
    guarantee is about sessions like them, and sessions of one client that resemble each other say less than
    their number.
    """
    if not configs:
        raise ValueError("there is no configuration to certify")
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta}: must lie between 0 and 1")
    if method not in ("fixed_sequence", "holm"):
        raise ValueError(f"method = {method!r}: must be fixed_sequence or holm")
    if search.groups != held_out.groups:
        raise ValueError(f"the splits have different groups: {search.groups} and {held_out.groups}")
    if (both := np.intersect1d(search.clients, held_out.clients)).size:
        raise ValueError(f"client {str(both[0])!r} has sessions in both splits")
    honest = sorted({*search.honest_groups, *held_out.honest_groups})
    bounds = _limits(limits, tuple(search.groups[g] for g in honest))
    order, queries = order_of_testing(search, configs, dict(zip(honest, bounds, strict=True)), attack, live, replay)
    sessions = np.bincount(held_out.group, minlength=len(held_out.groups))[honest]
    blocked = np.stack([_blocked(held_out, config, replay)[honest] for config in configs])
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
        blocked=blocked,
        p=p,
        order=order,
        certified=certified,
        queries=queries,
    )


def conservative(configs: Sequence[DetectorConfig]) -> tuple[DetectorConfig, ...]:
    """Return the configurations, and after them copies that block less; see `DetectorConfig.conservative`.

    The fastest configuration without a false positive among those that a search tried is so by luck in part: on new
    sessions it often has some. Behind the Pareto front there are configurations that cost little speed and do pass.
    """
    copies = [copy for config in configs for copy in config.conservative(_STEPS)]
    return tuple(dict.fromkeys([*configs, *copies]))


def order_of_testing(
    search: TraceSet,
    configs: Sequence[DetectorConfig],
    limits: Mapping[int, float],
    attack: Attack = "worst",
    live: Floats | None = None,
    replay: Replay = replay,
) -> tuple[tuple[int, ...], Floats]:
    """Learn on the search split in which order to test: the most conservative first, each next one faster.

    Candidates are sorted by what tells most about the false-positive rate on new sessions: the p-value on the
    search split; where equal (many block no session there) by the nearest miss, the greatest `Outcome.nearness` of
    an honest session that was not blocked; where equal by the rates of stricter and stricter copies (for kinds with
    a replay); then the slower first. A candidate no faster than one before it is left out: it could only end the
    sequence.

    Parameters
    ----------
    search : TraceSet
        The search split.
    configs : sequence of DetectorConfig
    limits : mapping of int to float
        The limit of each honest group, by its index.
    attack : {"worst", "mean"}
        By which attack speed is judged.
    live : ndarray of shape (J, L), optional
        See `certify`.
    replay : callable
        See `certify`.

    Returns
    -------
    order : tuple of int
        Indices of those to test.
    queries : ndarray of shape (J,)
        Restricted mean queries to block of all candidates.
    """
    groups, bounds = list(limits), np.array(list(limits.values()))
    sessions = np.bincount(search.group, minlength=len(search.groups))[groups]
    beside = [NO_LIVE] * len(configs) if live is None else live
    found = [
        evaluate(search, config, attack, live_queries, replay)
        for config, live_queries in zip(configs, beside, strict=True)
    ]
    queries = np.array([evaluation.queries for evaluation in found])

    def risk(j: int) -> tuple[float, ...]:
        outcome = found[j].outcome
        spared = ~search.is_attack & (outcome.blocked_at == 0)
        nearest_miss = float(outcome.nearness[spared].max(initial=0.0))
        excess = []
        for step in _STEPS if configs[j].replayable() else ():  # a live run of each copy would take far too long
            looser = _blocked(search, configs[j].stricter(step), replay)[groups]
            excess.append(float((looser / np.maximum(sessions, 1) / bounds).max()))
        p = float(p_values(found[j].totals.blocked[groups], sessions, bounds))
        return p, nearest_miss, *excess, -queries[j]

    order: list[int] = []
    for j in sorted(range(len(configs)), key=risk):
        if not order or queries[j] < queries[order[-1]]:
            order.append(j)
    return tuple(order), queries


def _blocked(traces: TraceSet, config: DetectorConfig, replay: Replay) -> Ints:
    return np.bincount(traces.group[replay(traces, config).blocked_at > 0], minlength=len(traces.groups))


def _limits(limits: float | Mapping[str, float], workloads: tuple[str, ...]) -> Floats:
    if not isinstance(limits, Mapping):
        limits = dict.fromkeys(workloads, limits)
    if set(limits) != set(workloads):
        raise ValueError(f"limits are for {', '.join(limits)}; the workloads are {', '.join(workloads)}")
    for name, limit in limits.items():
        if not 0 < limit < 1:
            raise ValueError(f"the limit for {name} is {limit}: it must lie between 0 and 1")
    return np.array([limits[name] for name in workloads], dtype=np.float64)
