"""Bases, search spaces, gradient estimates and scores against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from mifsim.clients import Answer
from mifsim.clients.attackers.bases import block_basis, dct_basis
from mifsim.clients.attackers.gradients import antithetic, central_differences, forward_differences, unit
from mifsim.clients.attackers.scores import cost, score, shares
from mifsim.clients.attackers.spaces import SpaceName, search_space
from mifsim.testing.worlds import StrictPool

GREY, COLOUR = (9, 7), (8, 8, 3)
PIXEL_SPACES: tuple[SpaceName, ...] = ("dct", "block", "pixel")


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 12), st.sampled_from([None, 3]), st.integers(1, 200),
    st.sampled_from([dct_basis, block_basis]),
)  # fmt: skip
def test_bases_are_orthonormal_and_no_larger_than_requested(
    height: int, width: int, channels: int | None, most: int, basis: Any
) -> None:
    shape = (height, width) if channels is None else (height, width, channels)
    rows = basis(shape, most)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-12)
    assert rows.shape[1] == math.prod(shape)
    assert 1 <= len(rows) <= max(most, channels or 1)


def test_dct_rows_are_the_lowest_coefficients_of_scipys_transform() -> None:
    image = np.random.default_rng(0).random(GREY)
    measured = dct_basis(GREY, 6) @ image.ravel()
    reference = fft.dctn(image, norm="ortho")
    # (u/9)² + (v/7)² in rising order: 0, 1/81, 1/49, 1/81 + 1/49, 4/81, 4/81 + 1/49
    places = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 1)]
    np.testing.assert_allclose(measured, [reference[place] for place in places], atol=1e-12)


def test_a_colour_basis_has_each_pattern_once_per_channel() -> None:
    image = np.random.default_rng(0).random(COLOUR)
    first = dct_basis(COLOUR, 3) @ image.ravel()
    np.testing.assert_allclose(first, image.sum(axis=(0, 1)) / 8, atol=1e-12)


def test_blocks_cover_an_image_that_the_grid_does_not_divide_evenly() -> None:
    rows = block_basis((5, 7), 4)
    assert len(rows) == 4
    np.testing.assert_array_equal((rows > 0).sum(axis=0), np.ones(35))
    np.testing.assert_array_equal(sorted((rows > 0).sum(axis=1)), [6, 8, 9, 12])  # (3 or 2) × (4 or 3)


@pytest.mark.parametrize("shape", [GREY, COLOUR])
@pytest.mark.parametrize("name", [*PIXEL_SPACES, "pca"])
def test_moves_are_in_standard_deviations_of_the_auxiliary_images(name: SpaceName, shape: tuple[int, ...]) -> None:
    pool = StrictPool.random(shape, 4, each=20)
    space = search_space(name, pool, shape, 6)
    images = np.stack([pool.image(index) for index in range(len(pool))]).reshape(len(pool), -1)
    mean = images.mean(axis=0)
    np.testing.assert_allclose(space.images(space.start[None])[0].ravel(), mean, atol=1e-6)
    small = 1e-3 * np.eye(space.size)
    along = (space.images(space.moved(space.start, small)).reshape(space.size, -1) - mean) / 1e-3
    # The patterns are orthogonal. The images' standard deviation along them (root mean square) is a move of 1.
    lengths = np.linalg.norm(along, axis=1)
    deviations = np.sqrt((((images - mean) @ (along / lengths[:, None]).T) ** 2).mean(axis=0))
    assert np.sqrt((deviations**2).mean()) == pytest.approx(np.sqrt((lengths**2).mean()), rel=0.02)


@pytest.mark.parametrize("name", [*PIXEL_SPACES, "pca"])
def test_the_prior_is_a_standard_normal_density_around_the_start(name: SpaceName) -> None:
    space = search_space(name, StrictPool.random(GREY, 4, each=20), GREY, 5)
    moves = np.random.default_rng(1).normal(0, 0.1, (3, space.size))
    expected = [0, *(-0.5 * (moves**2).sum(axis=1))]
    points = np.concatenate([space.start[None], space.moved(space.start, moves)])
    np.testing.assert_allclose(space.log_prior(points), expected, atol=1e-9)


def test_pixel_moves_are_clipped_and_latent_moves_are_not() -> None:
    pool = StrictPool.random(GREY, 4, each=5)
    for name in PIXEL_SPACES:
        space = search_space(name, pool, GREY, "auto")
        far = space.moved(space.start, np.full((1, space.size), 1e3))
        assert far.min() >= 0
        assert far.max() <= 1
    latent = search_space("pca", pool, GREY, 3)
    np.testing.assert_array_equal(latent.moved(latent.start, np.full((1, 3), 9.0)), np.full((1, 3), 9.0))


@pytest.mark.parametrize("name", [*PIXEL_SPACES, "pca"])
def test_finite_differences_give_the_gradient_in_every_search_space(name: SpaceName) -> None:
    """For c(x) = a·x + ½ |x|², the chain rule gives the gradient J^T (a + x), where J has the patterns of the space."""
    space = search_space(name, StrictPool.random(GREY, 4, each=20), GREY, 6)
    a = np.random.default_rng(2).normal(size=GREY)

    def value(points: Any) -> Any:
        x = space.images(points).astype(np.float64)
        return (x * a).sum(axis=(1, 2)) + 0.5 * (x**2).sum(axis=(1, 2))

    width = 0.01
    steps = width * np.eye(space.size)
    here = float(value(space.start[None])[0])
    ahead, behind = value(space.moved(space.start, steps)), value(space.moved(space.start, -steps))
    x = space.images(space.start[None])[0].astype(np.float64)
    images = [space.images(space.moved(space.start, moves)).astype(np.float64) for moves in (steps, -steps)]
    patterns = ((images[0] - images[1]) / (2 * width)).reshape(space.size, -1)
    exact = patterns @ (a + x).ravel()
    curvature = 0.5 * width * (patterns**2).sum(axis=1)  # exact error of a forward difference of a quadratic
    np.testing.assert_allclose(central_differences(ahead, behind, width), exact, atol=2e-3)
    np.testing.assert_allclose(forward_differences(ahead, here, width), exact + curvature, atol=2e-3)
    assert (curvature > 1e-5).all()


@pytest.mark.parametrize("signs", [False, True], ids=["normal", "signs"])
def test_antithetic_estimates_are_unbiased_on_a_linear_function(signs: bool) -> None:
    """Coordinate i of the estimate from one pair has mean g_i and a variance of at most |g|² + g_i²."""
    rng = np.random.default_rng(3)
    gradient, pairs, width = np.array([1.0, -2.0, 0.5, 0.0, 3.0]), 20_000, 0.3
    directions = rng.choice([-1.0, 1.0], (pairs, 5)) if signs else rng.standard_normal((pairs, 5))
    estimate = antithetic(4 + width * directions @ gradient, 4 - width * directions @ gradient, directions, width)
    error = np.sqrt(((gradient**2).sum() + gradient**2) / pairs)
    assert (np.abs(estimate - gradient) < 5 * error).all()
    assert error.max() < 0.04


def test_antithetic_pairs_cancel_an_even_function() -> None:
    directions = np.random.default_rng(4).standard_normal((50, 3))
    even = (directions**2).sum(axis=1)
    np.testing.assert_array_equal(antithetic(even, even, directions, 0.1), np.zeros(3))


def test_a_withheld_value_gives_a_zero_slope() -> None:
    nan, directions = math.nan, np.eye(2)
    np.testing.assert_array_equal(forward_differences(np.array([nan, 3.0]), 1.0, 0.5), [0, 4])
    np.testing.assert_array_equal(forward_differences(np.array([2.0, 3.0]), nan, 0.5), [0, 0])
    np.testing.assert_array_equal(antithetic(np.array([nan, 3.0]), np.array([1.0, 1.0]), directions, 0.5), [0, 1])


def test_a_unit_direction_has_length_one_or_zero() -> None:
    np.testing.assert_allclose(unit(np.array([3.0, -4.0])), [0.6, -0.8])
    np.testing.assert_array_equal(unit(np.zeros(2)), [0, 0])


def test_the_cost_is_the_sum_of_the_other_classes_when_the_model_is_sure() -> None:
    sure = Answer(1, np.array([1e-20, 1.0, 3e-20], np.float32))
    assert shares(sure, 1) == (1.0, pytest.approx(4e-20))
    assert cost(sure, 1) == pytest.approx(4e-20)
    assert score(sure, 1, "log-odds") == pytest.approx(-math.log(4e-20))
    assert score(sure, 1, "log-confidence") == 0
    top_1 = Answer(1, np.array([np.nan, 0.75, np.nan], np.float32))
    assert shares(top_1, 1) == (0.75, 0.25)
    for withheld in (Answer(1), Answer(1, np.array([0.9, np.nan, np.nan], np.float32))):
        assert cost(withheld, 1) == 1
        assert math.isnan(score(withheld, 1, "log-odds"))


def test_a_confidence_rounded_to_zero_has_a_finite_score() -> None:
    rounded = Answer(0, np.array([1.0, 0.0], np.float32))
    assert math.isfinite(score(rounded, 0, "log-odds"))
    assert math.isfinite(score(rounded, 1, "log-confidence"))
