"""The order of testing, what is chosen, and whether the guarantee holds where the truth is known."""

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
    broken_shares,
    draw,
    two_query_sessions,
)
from tests.tuning.worlds import random_traces
from tuning.certify import certify, conservative, order_of_testing
from tuning.objectives import evaluate
from tuning.replay import replay

LOOSE, MIDDLE, TIGHT = (FilterConfig(t_ssim, 1.0, 1, 1) for t_ssim in (0.3, 0.5, 0.8))


def population(split: int, users: list[float], sessions: int, attack: tuple[float, ...] = (0.4, 0.6, 0.9)):
    """Attackers, of which `TIGHT` blocks 1, `MIDDLE` 2, `LOOSE` all; users at these similarities, or 0."""
    similarity = np.array([*attack, *users, *[0.0] * (sessions - len(users))])
    group = np.repeat([0, 1], [len(attack), sessions])
    clients = np.array([f"{split}-{s}" for s in range(len(group))])
    return two_query_sessions(similarity, np.full(len(group), 0.5), group, clients=clients)


def test_the_fastest_that_passes_is_chosen():
    """On 500 held-out sessions LOOSE blocks 2 (p = 0.12), MIDDLE 1 (p = 0.04), TIGHT none."""
    search, held_out = population(0, [], 50), population(1, [0.4, 0.6], 500)
    found = certify(search, held_out, [LOOSE, MIDDLE, TIGHT], 0.01)
    assert found.workloads == ("users",)
    assert found.sessions.tolist() == [500]
    assert found.blocked.tolist() == [[2], [1], [0]]
    assert found.p == pytest.approx(stats.binom.cdf([2, 1, 0], 500, 0.01))
    assert [found.configs[j] for j in found.order] == [TIGHT, MIDDLE, LOOSE]
    assert found.certified.tolist() == [False, True, True]
    assert found.chosen == 1
    assert found.queries == pytest.approx([2, (2 + 2 + 10) / 3, (2 + 10 + 10) / 3])


def test_holm_tests_each_at_its_share():
    """Of two, p = 0.04 passes at 0.05 once 0.007 has passed at 0.025; of three it does not, at 0.025."""
    search, held_out = population(0, [], 50), population(1, [0.4, 0.6], 500)
    assert certify(search, held_out, [MIDDLE, TIGHT], 0.01, method="holm").certified.tolist() == [True, True]
    three = certify(search, held_out, [LOOSE, MIDDLE, TIGHT], 0.01, method="holm")
    assert three.certified.tolist() == [False, False, True]


def test_when_none_passes_nothing_is_chosen_and_the_need_is_told():
    search, held_out = population(0, [], 50), population(1, [0.9], 200)
    found = certify(search, held_out, [LOOSE, TIGHT], 0.01)
    assert not found.certified.any()
    assert found.chosen is None
    assert found.sessions_needed == {"users": (473, 1182)}


def test_under_holm_the_need_is_that_of_the_least_p_value_at_its_level():
    """TIGHT blocks none of 200; at 0.05 / 2 that takes 368, for 0.99**368 = 0.0248."""
    search, held_out = population(0, [], 50), population(1, [0.6], 200)
    found = certify(search, held_out, [MIDDLE, TIGHT], 0.01, method="holm")
    assert found.chosen is None
    assert found.sessions_needed == {"users": (368, 368)}


def test_every_workload_must_pass_by_its_own_limit():
    search, held_out = draw(np.random.default_rng(0), 100, 0), draw(np.random.default_rng(1), 300, 1)
    config = FilterConfig(0.7, 1.0, 1, 1)
    both = certify(search, held_out, [config], {"users": 0.02, "lookalikes": 0.2})
    blocked = dict(zip(both.workloads, both.blocked[0].tolist(), strict=True))
    assert both.p[0] == pytest.approx(
        max(stats.binom.cdf(blocked["users"], 300, 0.02), stats.binom.cdf(blocked["lookalikes"], 300, 0.2))
    )
    assert both.certified.all()
    assert not certify(search, held_out, [config], 0.02).certified.any()


def test_a_workload_that_was_only_searched_cannot_be_certified():
    search, held_out = draw(np.random.default_rng(0), 100, 0), draw(np.random.default_rng(1), 300, 1)
    found = certify(search, held_out.subset(held_out.group < 2), [TIGHT], 0.1)
    assert found.workloads == ("users", "lookalikes")
    assert found.p.tolist() == [1]
    assert found.sessions_needed["lookalikes"] == (29, 29)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_each_next_one_is_faster_and_less_safe_on_the_search_split(seed):
    search = draw(np.random.default_rng(seed), 100, 0)
    order, queries = order_of_testing(search, NEAR_THE_LIMIT, {1: LIMIT, 2: LIMIT})
    found = [evaluate(search, NEAR_THE_LIMIT[j]) for j in order]
    assert queries[list(order)].tolist() == [f.queries for f in found]
    for before, after in itertools.pairwise(found):
        assert after.queries < before.queries
        assert after.false_positive_rate >= before.false_positive_rate


def test_nearest_miss_decides_where_none_was_blocked():
    """Both block nobody; one more match brings an honest session to 2 of 2, or to 2 of 9."""
    near, far = FilterConfig(0.5, 1.0, 1, 2), FilterConfig(0.5, 1.0, 1, 9)
    search = population(0, [0.6], 50)
    assert order_of_testing(search, [near, far], {1: 0.01})[0] == (1,)
    fast = FilterConfig(0.7, 1.0, 1, 1)  # blocks attacks too, so that it is worth testing after the safer one
    assert order_of_testing(search, [near, far, fast], {1: 0.01})[0] == (1, 2)


def test_looser_copies_decide_where_the_misses_are_alike():
    """No match at either, but users lie at 0.6: a slightly looser copy of 0.62 would block them."""
    edge, away = FilterConfig(0.62, 1.0, 1, 1), FilterConfig(0.8, 1.0, 1, 1)
    search = population(0, [0.6] * 3, 50, attack=(0.7, 0.9))
    assert order_of_testing(search, [edge, away], {1: 0.01})[0] == (1, 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 6), st.sampled_from([0.1, 0.5, 0.9]))
@settings(max_examples=30, deadline=None)
def test_conservative_copies_come_after_and_block_no_more(seed, n_b, l_sp, t_ssim):
    traces = random_traces(np.random.default_rng(seed))
    given_ = [FilterConfig(t_ssim, 0.4, n_b, l_sp), FilterConfig(t_ssim, 0.4, n_b, l_sp + 1)]
    copies = conservative(given_)
    assert list(copies[:2]) == given_
    assert len(set(copies)) == len(copies) >= 12
    blocked = replay(traces, given_[0]).blocked_at > 0
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
def test_what_cannot_be_certified_is_refused(change, message):
    given_ = {
        "search": population(0, [], 5),
        "held_out": population(1, [], 5),
        "configs": [TIGHT],
        "limits": 0.01,
    }
    with pytest.raises(ValueError, match=message):
        certify(**{**given_, **change})


def most_allowed(repeats: int) -> float:
    """What a share of at most `DELTA` stays below in all but one of 10,000 experiments."""
    return stats.binom.isf(1e-4, repeats, DELTA) / repeats


def test_the_guarantee_holds_where_the_truth_is_known():
    repeats = 150
    broken, chosen, naive = broken_shares(NEAR_THE_LIMIT, repeats)
    assert broken <= most_allowed(repeats)
    assert chosen > 0.9
    assert naive > 5 * DELTA  # or the test would show nothing


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fixed_sequence", "holm"])
@pytest.mark.parametrize("candidates", [NEAR_THE_LIMIT, JUST_ABOVE], ids=["near the limit", "just above"])
def test_the_guarantee_holds_in_a_thousand_calibrations(candidates, method):
    repeats = 1000
    broken, _, naive = broken_shares(candidates, repeats, method, seed=1)
    assert broken <= most_allowed(repeats)
    assert naive > 5 * DELTA
