"""The separable CMA-ES on functions whose optimum and scales are known."""

from __future__ import annotations

import numpy as np
import pytest

from mifsim.clients.attackers.cma import SeparableCMAES

SIZE = 10
OPTIMUM = np.linspace(-2, 2, SIZE)
SCALES = 10 ** np.linspace(0, 1.5, SIZE)


def maximise(turns: int, start: np.ndarray, scales: np.ndarray = SCALES, seed: int = 0) -> SeparableCMAES:
    search = SeparableCMAES(start, 0.5, np.random.default_rng(seed))
    for _ in range(turns):
        search.tell(-((scales * (search.ask() - OPTIMUM)) ** 2).sum(axis=1))
    return search


def test_finds_the_optimum_of_an_ellipsoid_and_its_scales() -> None:
    search = maximise(300, np.zeros(SIZE))
    np.testing.assert_allclose(search.mean, OPTIMUM, atol=1e-4)
    # The standard deviations become proportional to 1 / scale: their product has a small spread.
    points = np.concatenate([search.ask() for _ in range(500)]) - search.mean
    spread = np.log(points.std(axis=0) * SCALES)
    assert np.log(SCALES).std() > 1
    assert spread.std() < 0.4


def test_the_population_and_the_first_points_are_as_stated() -> None:
    search = SeparableCMAES(np.full(20, 3.0), 0.5, np.random.default_rng(0))
    assert search.population == 4 + 8  # ⌊3 ln 20⌋ = 8
    points = np.concatenate([search.ask() for _ in range(2000)])
    np.testing.assert_allclose(points.mean(axis=0), 3.0, atol=0.02)
    np.testing.assert_allclose(points.std(axis=0), 0.5, rtol=0.03)


def test_only_the_order_of_the_values_counts() -> None:
    one, other = (SeparableCMAES(np.zeros(5), 1.0, np.random.default_rng(1)) for _ in range(2))
    for _ in range(20):
        values = -(one.ask() ** 2).sum(axis=1)
        other.ask()
        one.tell(values)
        other.tell(np.exp(values) - 7)
    np.testing.assert_array_equal(one.mean, other.mean)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_it_improves_in_few_and_in_many_dimensions(size: int) -> None:
    search = SeparableCMAES(np.full(size, 2.0), 0.5, np.random.default_rng(0))
    for _ in range(300):
        search.tell(-(search.ask() ** 2).sum(axis=1))
    assert np.sqrt((search.mean**2).mean()) < 0.2
