"""Variations of the best trials: which ones are varied, and how far a variation moves."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tuning import variations
from tuning.variations import ELITE, parents, variation, varied

SPACE: dict[str, BaseDistribution] = {
    "linear": FloatDistribution(-1.0, 3.0),
    "log": FloatDistribution(0.01, 0.3, log=True),
    "whole": IntDistribution(1, 64, log=True),
    "fixed": FloatDistribution(2.0, 2.0),
    "choice": CategoricalDistribution(["a", "b", "c"]),
}
POINT = {"linear": 0.5, "log": 0.1, "whole": 8, "fixed": 2.0, "choice": "a"}


def test_examples() -> None:
    result = doctest.testmod(variations)
    assert result.attempted > 0
    assert result.failed == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 500)), min_size=1, max_size=40))
def test_parents_are_the_trials_that_nothing_beats_and_the_fastest_within_the_limit(
    found: list[tuple[float, float]],
) -> None:
    points = np.array(found)
    chosen = parents(points, limit=0.2, budget=0.5)
    assert chosen == sorted(set(chosen))
    allowed = [number for number, (rate, _) in enumerate(found) if rate <= 0.5] or range(len(found))
    for number in allowed:
        rate, queries = found[number]
        beaten = any(
            found[other][0] <= rate and found[other][1] <= queries and found[other] != found[number]
            for other in allowed
        )
        if not beaten:
            assert any(found[other] == found[number] for other in chosen)
    within = sorted(queries for rate, queries in found if rate <= 0.2)
    taken = sorted(found[number][1] for number in chosen if found[number][0] <= 0.2)
    assert taken[: len(within[:ELITE])] == within[:ELITE]


@given(st.integers(0, 2**32))
def test_a_variation_stays_in_the_space_and_differs_in_a_number(seed: int) -> None:
    found = varied(POINT, SPACE, np.random.default_rng(seed))
    assert found.keys() == POINT.keys()
    assert found["fixed"] == 2.0
    for name, one in SPACE.items():
        assert one._contains(one.to_internal_repr(found[name])), name
    assert isinstance(found["whole"], int)


def test_steps_are_small_and_large_and_equal_on_each_scale() -> None:
    rng = np.random.default_rng(3)
    moves = [varied(POINT, SPACE, rng) for _ in range(20_000)]
    linear = np.array([abs(one["linear"] - 0.5) / 4.0 for one in moves])
    log = np.array([abs(math.log(one["log"] / 0.1)) / math.log(30) for one in moves])
    for sizes in (linear, log):
        changed = sizes[sizes > 1e-12]
        assert 0.3 < len(changed) / len(sizes) < 0.6  # (0.2 + 0.1 + 0.3 + 1) / 4 = 0.4 and a little more
        # The median of |N(0, 1)| is 0.67; that of the deviation is 10**-1.4.
        assert np.median(changed) == pytest.approx(0.674 * 10**-1.4, rel=0.25)
    assert np.mean([one["choice"] != "a" for one in moves]) == pytest.approx(0.1 * 2 / 3, abs=0.01)


def test_a_variation_starts_at_a_parent() -> None:
    trials = [{**POINT, "fixed": 2.0, "linear": value} for value in (-1.0, 0.0, 3.0)]
    points = np.array([(0.0, 90.0), (0.05, 20.0), (0.5, 1.0)])
    rng = np.random.default_rng(0)
    found = [variation(trials, points, {"whole": SPACE["whole"]}, 0.01, 0.1, rng)["linear"] for _ in range(200)]
    assert set(found) == {-1.0, 0.0}
    assert 60 < found.count(0.0) < 140
