"""The W statistic against scipy's, its definition, and a published table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mifsim.defense.shapiro import shapiro_w, weights

SAMPLES = {
    "normal": lambda rng, n: rng.normal(3, 0.1, n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "uniform": lambda rng, n: rng.random(n),
    "two values": lambda rng, n: np.where(np.arange(n) < n / 3, 1.0, 2.0),
    "ties": lambda rng, n: np.round(rng.normal(0, 2, n)),
    "large offset": lambda rng, n: 1000 + rng.normal(0, 0.5, n),
}


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 10, 11, 50, 101, 110, 777, 3000])
@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.filterwarnings("ignore:.*range zero")
def test_equals_scipy_s(kind, n):
    rng = np.random.default_rng(n)
    for _ in range(3):
        values = SAMPLES[kind](rng, n)
        assert shapiro_w(values) == pytest.approx(stats.shapiro(values).statistic, abs=1e-8)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 10, width=32), min_size=3, max_size=120))
@pytest.mark.filterwarnings("ignore:.*range zero")
def test_equals_scipy_s_for_any_distances(values):
    array = np.array(values)
    if 0 < np.ptp(array) < 1e-3:
        return  # scipy subtracts a value first, and both lose digits
    assert shapiro_w(array) == pytest.approx(stats.shapiro(array).statistic, abs=1e-7)


@pytest.mark.parametrize("n", range(3, 60))
def test_the_squares_of_all_weights_add_up_to_1(n):
    found = weights(n)
    assert len(found) == n // 2
    assert 2 * (found**2).sum() == pytest.approx(1, abs=1e-12)
    assert (np.diff(found) < 0).all()  # the largest value has the largest weight
    assert (found > 0).all()


def test_the_weights_are_near_those_of_the_original_table():
    """Shapiro and Wilk 1965, Table 5, for n = 10; Royston's approximation is within 0.0005."""
    assert weights(10) == pytest.approx([0.5739, 0.3291, 0.2141, 0.1224, 0.0399], abs=6e-4)


def test_by_hand():
    """Of 0, 0 and 1: the weights are 1/sqrt(2), 0 and -1/sqrt(2), so W = (1/2) / (2/3)."""
    assert shapiro_w(np.array([1.0, 0.0, 0.0])) == pytest.approx(0.75)
    assert shapiro_w(np.array([2.0, 1.0, 3.0])) == pytest.approx(1.0)


def test_equal_values_count_as_normal():
    """As in scipy, which returns 1 with a warning."""
    assert shapiro_w(np.full(105, 0.3)) == 1.0


def test_the_order_and_the_scale_do_not_matter():
    values = np.random.default_rng(0).exponential(size=101)
    assert shapiro_w(values[::-1].copy()) == shapiro_w(values)
    assert shapiro_w(4 * values) == shapiro_w(values)
    assert shapiro_w(255 * values + 3) == pytest.approx(shapiro_w(values), abs=1e-12)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_values(n):
    with pytest.raises(ValueError, match=f"{n} values: the Shapiro-Wilk test needs at least 3"):
        shapiro_w(np.zeros(n))


def test_weights_are_shared_and_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        weights(20)[0] = 1
    assert math.isfinite(shapiro_w(np.arange(20.0)))
