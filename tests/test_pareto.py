"""Hypervolumes compared with closed forms, and non-dominated points with their definition."""

import doctest
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mifsim.pareto
from mifsim.pareto import hypervolume, non_dominated

coarse_points = st.integers(2, 3).flatmap(
    lambda m: st.lists(st.tuples(*[st.integers(0, 4)] * m), max_size=30).map(lambda p: np.reshape(p, (-1, m)))
)


@given(coarse_points)
def test_non_dominated_follows_its_definition(points):
    kept = non_dominated(points)
    for i, p in enumerate(points):
        dominated = any((q <= p).all() and (q < p).any() for q in points)
        repeats = any((q == p).all() for q in points[:i])
        assert kept[i] == (not dominated and not repeats)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[0.0, 1.0]], 1.0),
        ([[0.05, 1.0]], 0.5),
        ([[0.0, 10.0]], 2 / 3),
        ([[0.05, 10.0], [0.05, 10.0]], 1 / 3),
        ([[0.1, 1.0]], 0.0),
        ([[0.0, 1000.0]], 0.0),
        ([[0.2, 1.0], [0.0, 5000.0]], 0.0),
        ([[0.0, 100.0], [0.05, 10.0], [0.2, 1.0]], 1 / 3 + 1 / 6),
        ([[0.0, 1.0, 0.25]], 0.75),
        # Two boxes minus their intersection: 1 x 1/3 x 1/2 + 1/2 x 2/3 x 1/2 - 1/2 x 1/3 x 1/2
        ([[0.0, 100.0, 0.5], [0.05, 10.0, 0.5]], 1 / 6 + 1 / 6 - 1 / 12),
        (np.empty((0, 2)), 0.0),
    ],
)
def test_hypervolume_equals_the_closed_form(points, expected):
    assert hypervolume(points, budget=1000, fpr_limit=0.1) == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0, 0.3), st.floats(1, 500)), max_size=20), st.integers(2, 400))
def test_hypervolume_is_the_area_above_the_staircase(points, budget):
    """At each rate, the height follows from the fastest configuration with at most that false-positive rate."""
    steps = sorted({0.0, 0.15, *(rate for rate, _ in points if rate < 0.15)})
    area = 0.0
    for left, right in itertools.pairwise(steps):
        fastest = min((queries for rate, queries in points if rate <= left), default=budget)
        area += (right - left) / 0.15 * max(0.0, 1 - math.log(fastest) / math.log(budget))
    found = hypervolume(np.reshape(points, (-1, 2)), budget=budget, fpr_limit=0.15)
    assert found == pytest.approx(area, abs=1e-9)


@pytest.mark.parametrize(
    ("points", "more"),
    [
        ([[0.0]], {}),
        ([[0.0, 1.0, 0.0, 0.0]], {}),
        ([0.0, 1.0], {}),
        ([[math.nan, 1.0]], {}),
        ([[0.0, 0.5]], {}),
        ([[0.0, 2.0, -0.1]], {}),
        ([[0.0, 2.0]], {"budget": 1}),
        ([[0.0, 2.0]], {"fpr_limit": 0}),
    ],
)
def test_hypervolume_refuses_invalid_arguments(points, more):
    with pytest.raises(ValueError, match=r"must|need"):
        hypervolume(points, **{"budget": 100, **more})


def test_examples_in_the_docstrings_run():
    assert doctest.testmod(mifsim.pareto, optionflags=doctest.ELLIPSIS).failed == 0
