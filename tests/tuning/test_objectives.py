"""Objectives of sessions whose outcomes are known."""

import math

import numpy as np
import pytest

from mifsim.defense import FilterConfig
from tests.tuning.sample_traces import trace_set
from tuning.objectives import attack_budget, evaluate, objectives
from tuning.replay import replay_swept

CONFIG = FilterConfig(t_ssim=0.5, t_hash=0.5, n_b=1, l_sp=1)


def sessions(blocked_at: list[int], length: int = 6) -> list[np.ndarray]:
    """Return similarity tables of sessions that `CONFIG` blocks at the given queries (0: never)."""
    tables = []
    for at in blocked_at:
        table = np.full((length, 1), 0.25)
        table[0] = np.nan
        if at:
            table[at - 1] = 0.75
        tables.append(table)
    return tables


def two_attacks_two_workloads(**more):
    """Return sessions of two attacks and two workloads, each with a budget of 10 queries.

    The sessions of one attack are blocked at query 2 and never, those of the other at 4 and 6. Of the workloads, 1 of 3
    and 1 of 2 sessions are blocked.
    """
    group = [0, 0, 1, 1, 2, 2, 2, 3, 3]
    tables = sessions([2, 0, 4, 6, 0, 0, 3, 5, 0])
    fields = {
        "group": np.array(group),
        "groups": ("a", "b", "users", "others"),
        "is_attack": np.array(group) < 2,
        "budget": np.array([10] * 9),
    }
    return trace_set(tables, [np.full(6, 0.5)] * 9, **{**fields, **more})


def test_evaluate_combines_attacks_by_the_worst_or_the_mean():
    traces = two_attacks_two_workloads()
    worst, mean = evaluate(traces, CONFIG, "worst"), evaluate(traces, CONFIG, "mean")
    assert worst.false_positive_rate == mean.false_positive_rate == 0.5
    assert worst.queries == (2 + 10) / 2
    assert mean.queries == ((2 + 10) / 2 + (4 + 6) / 2) / 2
    geometric = evaluate(traces, CONFIG, "geometric")
    assert geometric.queries == pytest.approx(math.sqrt((2 + 10) / 2 * (4 + 6) / 2))
    live = evaluate(traces, CONFIG, "geometric", np.array([3.0]))
    assert live.queries == pytest.approx(((2 + 10) / 2 * (4 + 6) / 2 * 3) ** (1 / 3))
    assert worst.leak is None
    assert worst.totals.blocked.tolist() == [1, 2, 1, 1]
    assert attack_budget(traces) == 10


def test_leakage_is_that_of_the_worst_attack_or_the_mean():
    """Query q leaks q/8: sessions blocked at 2, 4 and 6 leak 1/8, 3/8 and 5/8; one that is never blocked leaks 6/8."""
    traces = two_attacks_two_workloads(leak=np.tile(np.arange(1, 7) / 8, 9))
    assert evaluate(traces, CONFIG, "worst").leak == (3 + 5) / 16
    for mean in ("mean", "geometric"):  # leakage can be 0, so it has no geometric mean
        assert evaluate(traces, CONFIG, mean).leak == ((1 + 6) / 16 + (3 + 5) / 16) / 2


def test_objectives_evaluates_many_configurations_at_once():
    traces = two_attacks_two_workloads()
    sums = replay_swept(traces, CONFIG, {"n_b": 1, "l_sp": 2})
    np.testing.assert_array_equal(objectives(traces, sums), [[[0.5, 0.0]], [[6.0, 10.0]]])


def test_a_workload_without_sessions_is_ignored():
    traces = two_attacks_two_workloads().subset(np.array([True] * 7 + [False] * 2))
    assert evaluate(traces, CONFIG).false_positive_rate == 1 / 3


@pytest.mark.parametrize(("keep", "missing"), [(slice(0, 4), "honest"), (slice(4, 9), "attack")])
def test_traces_without_honest_or_attack_sessions_are_refused(keep, missing):
    mask = np.zeros(9, dtype=bool)
    mask[keep] = True
    with pytest.raises(ValueError, match=f"no {missing} session"):
        evaluate(two_attacks_two_workloads().subset(mask), CONFIG)


def test_unknown_choices_are_refused():
    traces = two_attacks_two_workloads()
    with pytest.raises(ValueError, match="worst, mean, geometric"):
        evaluate(traces, CONFIG, "best")
    with pytest.raises(ValueError, match="traces contain no leakage"):
        objectives(traces, evaluate(traces, CONFIG).totals, leakage=True)
