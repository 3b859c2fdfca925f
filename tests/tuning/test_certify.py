"""The order of testing, the chosen candidate, and the guarantee on populations with known false-positive rates."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mifsim.defense import FilterConfig
from tests.tuning.guarantee import (
    DELTA,
    JUST_ABOVE,
    LIMIT,
    NEAR_THE_LIMIT,
    draw,
    repeat_calibrations,
    two_query_sessions,
)
from tests.tuning.sample_traces import random_traces
from tuning.certify import certify, conservative, order_of_testing
from tuning.objectives import evaluate
from tuning.replay import replay

STRICT, MEDIUM, LENIENT = (FilterConfig(t_ssim, 1.0, 1, 1) for t_ssim in (0.3, 0.5, 0.8))


def population(split: int, users: list[float], sessions: int, attack: tuple[float, ...] = (0.4, 0.6, 0.9)):
    """Return attack sessions and honest sessions with the given similarities; further honest sessions have 0.

    Of the default attack sessions `LENIENT` blocks one, `MEDIUM` two and `STRICT` all three.
    """
    similarity = np.array([*attack, *users, *[0.0] * (sessions - len(users))])
    group = np.repeat([0, 1], [len(attack), sessions])
    clients = np.array([f"{split}-{s}" for s in range(len(group))])
    return two_query_sessions(similarity, np.full(len(group), 0.5), group, clients=clients)


def test_certify_chooses_the_fastest_certified_candidate():
    """On 500 held-out sessions STRICT blocks 2 (p = 0.12), MEDIUM 1 (p = 0.04), LENIENT none."""
    search, held_out = population(0, [], 50), population(1, [0.4, 0.6], 500)
    found = certify(search, held_out, [STRICT, MEDIUM, LENIENT], 0.01)
    assert found.workloads == ("users",)
    assert found.sessions.tolist() == [500]
    assert found.blocked.tolist() == [[2], [1], [0]]
    assert found.p == pytest.approx(stats.binom.cdf([2, 1, 0], 500, 0.01))
    assert [found.configs[j] for j in found.order] == [LENIENT, MEDIUM, STRICT]
    assert found.certified.tolist() == [False, True, True]
    assert found.chosen == 1
    assert found.queries == pytest.approx([2, (2 + 2 + 10) / 3, (2 + 10 + 10) / 3])


def test_holm_tests_each_candidate_at_its_own_level():
    """With two candidates, p = 0.04 passes at 0.05 after 0.007 passed at 0.025; with three, it fails at 0.025."""
    search, held_out = population(0, [], 50), population(1, [0.4, 0.6], 500)
    assert certify(search, held_out, [MEDIUM, LENIENT], 0.01, method="holm").certified.tolist() == [True, True]
    three = certify(search, held_out, [STRICT, MEDIUM, LENIENT], 0.01, method="holm")
    assert three.certified.tolist() == [False, False, True]


def test_certify_reports_the_sessions_needed_when_it_chooses_no_candidate():
    search, held_out = population(0, [], 50), population(1, [0.9], 200)
    found = certify(search, held_out, [STRICT, LENIENT], 0.01)
    assert not found.certified.any()
    assert found.chosen is None
    assert found.sessions_needed == {"users": (473, 1182)}


def test_holm_reports_the_sessions_needed_by_the_smallest_p_value():
    """LENIENT blocks none of 200 sessions; the level 0.05 / 2 requires 368, because 0.99**368 = 0.0248."""
    search, held_out = population(0, [], 50), population(1, [0.6], 200)
    found = certify(search, held_out, [MEDIUM, LENIENT], 0.01, method="holm")
    assert found.chosen is None
    assert found.sessions_needed == {"users": (368, 368)}


def test_every_workload_is_tested_against_its_own_limit():
    search, held_out = draw(np.random.default_rng(0), 100, 0), draw(np.random.default_rng(1), 300, 1)
    config = FilterConfig(0.7, 1.0, 1, 1)
    both = certify(search, held_out, [config], {"users": 0.02, "lookalikes": 0.2})
    blocked = dict(zip(both.workloads, both.blocked[0].tolist(), strict=True))
    assert both.p[0] == pytest.approx(
        max(stats.binom.cdf(blocked["users"], 300, 0.02), stats.binom.cdf(blocked["lookalikes"], 300, 0.2))
    )
    assert both.certified.all()
    assert not certify(search, held_out, [config], 0.02).certified.any()


def test_a_workload_without_held_out_sessions_is_not_certified():
    search, held_out = draw(np.random.default_rng(0), 100, 0), draw(np.random.default_rng(1), 300, 1)
    found = certify(search, held_out.subset(held_out.group < 2), [LENIENT], 0.1)
    assert found.workloads == ("users", "lookalikes")
    assert found.p.tolist() == [1]
    assert found.sessions_needed["lookalikes"] == (29, 29)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_each_next_candidate_is_faster_and_less_conservative(seed):
    search = draw(np.random.default_rng(seed), 100, 0)
    order, queries = order_of_testing(search, NEAR_THE_LIMIT, {1: LIMIT, 2: LIMIT})
    found = [evaluate(search, NEAR_THE_LIMIT[j]) for j in order]
    assert queries[list(order)].tolist() == [f.queries for f in found]
    for before, after in itertools.pairwise(found):
        assert after.queries < before.queries
        assert after.false_positive_rate >= before.false_positive_rate


def test_order_depends_on_the_nearest_miss_when_no_honest_session_is_blocked():
    """Neither blocks an honest session; one more match brings such a session to 2 of 2 matches, or to 2 of 9."""
    near, far = FilterConfig(0.5, 1.0, 1, 2), FilterConfig(0.5, 1.0, 1, 9)
    search = population(0, [0.6], 50)
    assert order_of_testing(search, [near, far], {1: 0.01})[0] == (1,)
    fast = FilterConfig(0.7, 1.0, 1, 1)  # also blocks attacks, so it is tested after the more conservative one
    assert order_of_testing(search, [near, far, fast], {1: 0.01})[0] == (1, 2)


def test_order_depends_on_stricter_copies_when_the_nearest_misses_are_equal():
    """Neither has a match, but users have a similarity of 0.6: a slightly stricter copy of 0.62 would block them."""
    edge, away = FilterConfig(0.62, 1.0, 1, 1), FilterConfig(0.8, 1.0, 1, 1)
    search = population(0, [0.6] * 3, 50, attack=(0.7, 0.9))
    assert order_of_testing(search, [edge, away], {1: 0.01})[0] == (1, 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 6), st.sampled_from([0.1, 0.5, 0.9]))
@settings(max_examples=30, deadline=None)
def test_conservative_copies_follow_the_candidates_and_block_no_more(seed, n_b, l_sp, t_ssim):
    traces = random_traces(np.random.default_rng(seed))
    candidates = [FilterConfig(t_ssim, 0.4, n_b, l_sp), FilterConfig(t_ssim, 0.4, n_b, l_sp + 1)]
    copies = conservative(candidates)
    assert list(copies[:2]) == candidates
    assert len(set(copies)) == len(copies) >= 12
    blocked = replay(traces, candidates[0]).blocked_at > 0
    for copy in copies:
        assert not (replay(traces, copy).blocked_at > 0)[~blocked].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"configs": []}, "at least one configuration"),
        ({"delta": 0}, "delta = 0"),
        ({"delta": 5}, "delta = 5"),
        ({"method": "bonferroni"}, "fixed_sequence or holm"),
        ({"limits": 0}, "limits: users = 0: must lie between 0 and 1"),
        ({"limits": 1.5}, "limits: users = 1.5: must lie"),
        (
            {"limits": {"users": 0.01, "robots": 0.01}},
            r"limits: given for users, robots \(expected exactly users\)",
        ),
        ({"limits": {}}, r"given for no workload \(expected exactly users\)"),
        ({"held_out": population(0, [], 5)}, "client '0-0' has sessions in both splits"),
        ({"held_out": replace(population(1, [], 5), groups=("a", "b"))}, "different groups"),
    ],
)
def test_invalid_arguments_are_refused(change, message):
    arguments = {
        "search": population(0, [], 5),
        "held_out": population(1, [], 5),
        "configs": [LENIENT],
        "limits": 0.01,
    }
    with pytest.raises(ValueError, match=message):
        certify(**{**arguments, **change})


def upper_bound(repeats: int) -> float:
    """Return a bound that a share with expected value `DELTA` exceeds in at most one of 10,000 experiments."""
    return stats.binom.isf(1e-4, repeats, DELTA) / repeats


def test_the_guarantee_holds_on_populations_with_known_rates():
    repeats = 150
    exceeded, chosen, naive = repeat_calibrations(NEAR_THE_LIMIT, repeats)
    assert exceeded <= upper_bound(repeats)
    assert chosen > 0.9
    assert naive > 5 * DELTA  # without certification the limit is often exceeded, so the test can fail


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fixed_sequence", "holm"])
@pytest.mark.parametrize("candidates", [NEAR_THE_LIMIT, JUST_ABOVE], ids=["near the limit", "just above"])
def test_the_guarantee_holds_in_a_thousand_calibrations(candidates, method):
    repeats = 1000
    exceeded, _, naive = repeat_calibrations(candidates, repeats, method, seed=1)
    assert exceeded <= upper_bound(repeats)
    assert naive > 5 * DELTA
