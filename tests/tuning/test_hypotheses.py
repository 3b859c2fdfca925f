"""P-values and multiple tests against values computed by hand and plain searches."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import tuning.hypotheses
from tuning.hypotheses import fixed_sequence, holm, p_values

p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("blocked", "sessions", "limit", "expected"),
    [
        (0, 299, 0.01, 0.99**299),
        (0, 2995, 0.001, 0.999**2995),
        (1, 10, 0.5, (1 + 10) / 1024),
        (2, 4, 0.25, 0.75**4 + 4 * 0.25 * 0.75**3 + 6 * 0.25**2 * 0.75**2),
        (10, 10, 0.01, 1.0),
        (0, 0, 0.01, 1.0),
    ],
)
def test_p_values_are_binomial_tails(blocked, sessions, limit, expected):
    assert p_values([blocked], [sessions], [limit]) == pytest.approx(expected, rel=1e-12)


def test_299_sessions_without_a_false_positive_certify_one_percent():
    p = p_values([[0], [0]], [299], [0.01])
    assert (p <= 0.05).all()
    assert p_values([0], [298], [0.01]) > 0.05
    assert p_values([0], [2995], [0.001]) <= 0.05 < p_values([0], [2994], [0.001])


def test_the_p_value_is_that_of_the_worst_workload_at_its_own_limit():
    p = p_values([[0, 1], [1, 0]], [300, 400], [0.01, 0.05])
    assert p == pytest.approx(
        [max(0.99**300, stats.binom.cdf(1, 400, 0.05)), max(stats.binom.cdf(1, 300, 0.01), 0.95**400)]
    )


@given(p_lists, st.floats(0.01, 0.5))
def test_fixed_sequence_stops_at_the_first_that_fails(p, delta):
    passed = fixed_sequence(p, delta).tolist()
    length = next((j for j, value in enumerate(p) if value > delta), len(p))
    assert passed == [j < length for j in range(len(p))]


@given(p_lists, st.floats(0.01, 0.5))
def test_holm_is_the_closed_bonferroni_test(p, delta):
    """A hypothesis is rejected where Bonferroni rejects every set of hypotheses that contains it."""
    m = len(p)
    if m > 8:
        p, m = p[:8], 8
    sets = [[j for j in range(m) if bits >> j & 1] for bits in range(1, 2**m)]
    expected = [all(min(p[i] for i in s) <= delta / len(s) for s in sets if j in s) for j in range(m)]
    assert holm(p, delta).tolist() == expected


def test_holm_matches_a_case_computed_by_hand():
    """The levels are 0.05/4, 0.05/3 and 0.05/2: 0.03 exceeds 0.025, so it fails, and so does the larger 0.04."""
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05).tolist() == [True, False, False, True]


def test_examples_in_the_docstrings_run():
    assert doctest.testmod(tuning.hypotheses).failed == 0
