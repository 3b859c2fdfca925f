"""Statistics compared with textbook tables, documented output of R, closed forms, and definitions in fractions."""

import doctest
import math
import warnings
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mifsim.statistics import clopper_pearson, intervals, kaplan_meier, needed, rate_interval, sessions_needed, survival

# Freireich et al. (1963), remission of leukaemia in weeks: the data set of every survival textbook.
SIX_MP = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
SIX_MP_ENDED = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
# As Stata's `sts list` prints them (it uses the log-log band): week, share, lower, upper.
SIX_MP_TABLE = [
    (6, 0.8571, 0.6197, 0.9516),
    (7, 0.8067, 0.5631, 0.9228),
    (10, 0.7529, 0.5032, 0.8894),
    (13, 0.6902, 0.4316, 0.8491),
    (16, 0.6275, 0.3675, 0.8049),
    (22, 0.5378, 0.2678, 0.7468),
    (23, 0.4482, 0.1881, 0.6801),
]

outcomes = st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("successes", "trials", "confidence", "low", "high"),
    [
        (682, 925, 0.95, 0.7076683, 0.7654066),  # the example of R's help page of binom.test
        (0, 10, 0.95, 0.0, 0.3084971),  # R: binom.test(0, 10)
        (10, 10, 0.95, 0.6915029, 1.0),
        (5, 20, 0.95, 0.0865715, 0.4910459),  # R: binom.test(5, 20)
        (0, 299, 0.90, 0.0, 1 - 0.05 ** (1 / 299)),  # 299 sessions without a block show a rate below 1%
    ],
)
def test_clopper_pearson_equals_published_values(successes, trials, confidence, low, high):
    assert clopper_pearson(successes, trials, confidence) == pytest.approx((low, high), abs=1e-7)


@given(st.integers(1, 500), st.data(), st.sampled_from([0.5, 0.9, 0.99]))
def test_clopper_pearson_inverts_the_binomial_tails(trials, data, confidence):
    successes = data.draw(st.integers(0, trials))
    low, high = clopper_pearson(successes, trials, confidence)
    tail = (1 - confidence) / 2
    assert 0 <= low <= successes / trials <= high <= 1
    if successes > 0:
        assert stats.binom.sf(successes - 1, trials, low) == pytest.approx(tail, rel=1e-6)
    if successes < trials:
        assert stats.binom.cdf(successes, trials, high) == pytest.approx(tail, rel=1e-6)


def test_clopper_pearson_without_trials_is_0_to_1():
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 10), (11, 10), (1, 0)])
def test_clopper_pearson_refuses_impossible_counts(successes, trials):
    with pytest.raises(ValueError, match=f"got {successes} of {trials}"):
        clopper_pearson(successes, trials)


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_confidence_must_be_between_0_and_1(confidence):
    with pytest.raises(ValueError, match="confidence"):
        clopper_pearson(1, 10, confidence)
    with pytest.raises(ValueError, match="confidence"):
        kaplan_meier([1], [True], confidence)


def test_kaplan_meier_equals_the_textbook_table():
    curve = kaplan_meier(SIX_MP, SIX_MP_ENDED)
    row_at = {q: row for q, *row in zip(curve.queries, curve.open, curve.low, curve.high, strict=True)}
    for week, *expected in SIX_MP_TABLE:
        assert row_at[week] == pytest.approx(expected, abs=5e-5)
    assert curve.median == 23


def test_kaplan_meier_without_censoring_is_the_empirical_share():
    curve = kaplan_meier(PLACEBO, [True] * 21)
    assert curve.open == pytest.approx([sum(t > q for t in PLACEBO) / 21 for q in curve.queries])
    assert curve.median == 8
    assert curve.restricted_mean(23) == pytest.approx(np.mean(PLACEBO))
    assert curve.restricted_mean(10) == pytest.approx(np.minimum(PLACEBO, 10).mean())


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=40))
def test_kaplan_meier_follows_its_definition(sessions):
    """Curve by query in fractions; band from Greenwood's sum on the log-log scale, exact at the shares 0 and 1."""
    curve = kaplan_meier([queries for queries, _ in sessions], [blocked for _, blocked in sessions])
    assert curve.queries.tolist() == sorted({0, *(queries for queries, _ in sessions)})
    normal = NormalDist().inv_cdf(0.975)
    open_share, greenwood, upper = Fraction(1), Fraction(0), 1.0
    for query, share, low, high in zip(curve.queries, curve.open, curve.low, curve.high, strict=True):
        at_risk = sum(queries >= query for queries, _ in sessions)
        blocked_now = sum(queries == query and blocked for queries, blocked in sessions)
        open_share *= Fraction(at_risk - blocked_now, at_risk)
        assert share == pytest.approx(float(open_share), rel=1e-12)
        if open_share == 1:
            expected = (0.025 ** (1 / at_risk), 1.0)
        elif open_share == 0:
            expected = (0.0, min(upper, 1 - 0.025 ** (1 / at_risk)))
        else:
            greenwood += Fraction(blocked_now, at_risk * (at_risk - blocked_now))
            spread = normal * math.sqrt(greenwood) / -math.log(open_share)
            expected = (open_share ** math.exp(spread), open_share ** math.exp(-spread))
        assert (low, high) == pytest.approx(expected, rel=1e-9)
        assert low <= share <= high
        upper = high


@pytest.mark.parametrize(("queries", "blocked"), [([50] * 10, [False] * 10), (PLACEBO, [True] * 21), ([3], [True])])
def test_kaplan_meier_gives_no_warning(queries, blocked):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kaplan_meier(queries, blocked)


@given(outcomes, st.integers(30, 60))
def test_restricted_mean_counts_an_unblocked_session_as_the_budget(sessions, budget):
    """If sessions are censored only at the budget, the area under the curve is a plain mean."""
    times = np.array([queries if blocked else budget for queries, blocked in sessions])
    curve = kaplan_meier(times, [blocked for _, blocked in sessions])
    assert curve.restricted_mean(budget) == pytest.approx(times.mean())


def test_median_is_exact_despite_rounding():
    """A product such as 9/10 x 8/9 x ... x 5/6 equals one half only up to rounding."""
    for half in range(1, 60):
        assert kaplan_meier(range(1, 2 * half + 1), [True] * (2 * half)).median == half


def test_ten_unblocked_sessions_leave_a_wide_band():
    """The lower end of the band is the exact binomial bound of R's binom.test(10, 10)."""
    curve = kaplan_meier([50] * 10, [False] * 10)
    assert curve.median is None
    assert curve.restricted_mean(50) == 50
    assert curve.open.tolist() == [1, 1]
    assert curve.low == pytest.approx([0.6915029] * 2, abs=1e-7)
    assert curve.high.tolist() == [1, 1]


def test_ten_sessions_blocked_at_once_leave_a_wide_band():
    curve = kaplan_meier([4] * 10, [True] * 10)
    assert curve.open.tolist() == [1, 0]
    assert curve.low[1] == 0
    assert curve.high[1] == pytest.approx(0.3084971, abs=1e-7)


def test_upper_band_does_not_change_when_the_last_session_is_blocked():
    curve = kaplan_meier(PLACEBO, [True] * 21)
    assert curve.open[-1] == 0
    assert curve.low[-1] == 0
    assert curve.high[-1] == curve.high[-2]


@pytest.mark.parametrize(
    ("queries", "blocked", "message"),
    [
        ([], [], "at least one"),
        ([1, 2], [True], "equal length"),
        ([[1]], [[True]], "1-D"),
        ([-1], [True], "at least 0"),
        ([math.nan], [True], "finite"),
    ],
)
def test_kaplan_meier_refuses_invalid_arguments(queries, blocked, message):
    with pytest.raises(ValueError, match=message):
        kaplan_meier(queries, blocked)


@pytest.mark.parametrize(
    ("blocked", "limit", "expected"),
    [(0, 0.01, 299), (1, 0.01, 473), (2, 0.01, 628), (0, 0.001, 2995), (0, 0.05, 59), (1, 0.05, 93)],
)
def test_sessions_needed_equals_published_sample_sizes(blocked, limit, expected):
    """Tables for acceptance sampling by attributes list these sample sizes (95% confidence)."""
    assert sessions_needed(blocked, 50, limit, 0.05).same_count == expected


@given(st.integers(1, 60), st.data(), st.sampled_from([0.02, 0.1, 0.3]), st.sampled_from([0.05, 0.2]))
def test_sessions_needed_is_the_smallest_number_that_passes(sessions, data, limit, delta):
    blocked = data.draw(st.integers(0, max(0, math.ceil(limit * sessions) - 1)))
    needed = sessions_needed(blocked, sessions, limit, delta)
    n = np.arange(max(blocked, 1), 6000)
    same_count = n[stats.binom.cdf(blocked, n, limit) <= delta]
    assert needed.same_count == same_count[0]
    same_rate = n[stats.binom.cdf(-(-blocked * n // sessions), n, limit) <= delta]
    if same_rate.size:
        assert needed.same_rate == same_rate[0]
    else:
        assert needed.same_rate is None or needed.same_rate > n[-1]


@pytest.mark.parametrize(("blocked", "sessions"), [(1, 100), (2, 100), (100, 100), (99_999, 10_000_000)])
def test_a_rate_at_the_limit_or_next_to_it_never_passes(blocked, sessions):
    assert sessions_needed(blocked, sessions, 0.01, 0.05).same_rate is None


def test_sessions_needed_before_any_session_assumes_no_blocks():
    assert sessions_needed(0, 0, 0.01, 0.05) == (299, 299)


@pytest.mark.parametrize(("blocked", "sessions"), [(-1, 10), (11, 10)])
def test_sessions_needed_refuses_impossible_counts(blocked, sessions):
    with pytest.raises(ValueError, match=f"got {blocked} of {sessions}"):
        sessions_needed(blocked, sessions, 0.01, 0.05)


@pytest.mark.parametrize(("blocked", "limit", "delta"), [(0, 0.01, 0.05), (3, 0.01, 0.05), (7, 0.1, 0.01)])
def test_the_needed_sessions_pass_and_one_fewer_do_not(blocked, limit, delta):
    needed = sessions_needed(blocked, blocked, limit, delta).same_count
    assert stats.binom.cdf(blocked, needed, limit) <= delta
    assert stats.binom.cdf(blocked, needed - 1, limit) > delta


@pytest.mark.parametrize("module", [intervals, needed, survival])
def test_examples_in_the_docstrings_run(module):
    assert doctest.testmod(module).failed == 0


@given(st.integers(1, 40), st.integers(1, 6), st.data())
def test_an_interval_for_alike_sessions_is_that_of_their_clients_rounded_outwards(
    clients: int, each: int, data: st.DataObject
) -> None:
    sessions = clients * each
    blocked = data.draw(st.integers(0, sessions))
    low, high = rate_interval(blocked, sessions, clients)
    assert low <= blocked / sessions <= high
    independent = clopper_pearson(blocked, sessions)
    assert low <= independent[0] + 1e-12
    assert high >= independent[1] - 1e-12
    if blocked % each == 0:  # all sessions of a client end alike
        assert (low, high) == clopper_pearson(blocked // each, clients)
