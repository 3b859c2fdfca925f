"""Bases, search spaces and gradient estimates against closed forms; numeric MI-Face, NES and SPSA."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from mifsim.clients import Answer, Client, Query, Refusal, World, client_class
from mifsim.clients.attackers.bases import block_basis, dct_basis
from mifsim.clients.attackers.gradients import antithetic, central_differences, forward_differences, unit
from mifsim.clients.attackers.scores import cost, score, shares
from mifsim.clients.attackers.spaces import SearchSpace, SpaceName, search_space
from mifsim.testing.worlds import SoftmaxLinear, StrictPool, converse, small_world

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


def test_numeric_mi_face_sends_d_plus_1_or_2_d_plus_1_queries_per_step() -> None:
    world = small_world((9, 9), 3, target=2)
    for differences, queries_per_step in (("forward", 5), ("central", 9)):
        client = client_class("mi-face-numeric")(
            space="dct", coordinates=4, differences=differences, alpha=3, gamma=0.0, beta=0
        )
        transcript = converse(client, world, np.random.default_rng(0), queries=100)
        assert transcript.ended
        assert len(transcript.queries) == 4 * queries_per_step


@pytest.mark.parametrize(
    ("name", "usual", "over_pixels"),
    [
        ("mi-face-numeric", {"step": 1.0}, {"step": 3.0}),
        ("nes", {"prior": 0.2}, {"prior": 0.02}),
        ("spsa", {"prior": 0.2, "gain": 0.02}, {"prior": 0.02, "gain": 0.1}),
    ],
)
def test_auto_depends_on_whether_coordinates_are_single_pixels(
    name: str, usual: dict[str, float], over_pixels: dict[str, float]
) -> None:
    world = small_world((9, 9), 3, target=2)
    for space in PIXEL_SPACES:
        stated = over_pixels if space == "pixel" else usual
        streams = [
            [query.image.tobytes() for query in converse(client, world, np.random.default_rng(0), queries=200).queries]
            for client in (client_class(name)(space=space), client_class(name)(space=space, **stated))
        ]
        assert streams[0] == streams[1]


def test_numeric_mi_face_follows_the_gradient_of_a_known_model() -> None:
    """The second iterate is the first plus a step along the model's gradient, projected onto the basis."""
    world = small_world((9, 9), 3, target=2)
    model = SoftmaxLinear(world.shape, world.classes)
    client = client_class("mi-face-numeric")(
        space="dct", coordinates=6, differences="central", width=0.01, step=0.1, gamma=0.0
    )
    queries = converse(client, world, np.random.default_rng(0), queries=14).queries
    rows = dct_basis(world.shape, 6)
    x = queries[0].image.astype(np.float64)
    slope = rows @ model.gradient(x, 2).ravel()
    moved = (queries[13].image.astype(np.float64) - x).ravel()
    np.testing.assert_allclose(unit(rows @ moved), unit(slope), atol=0.02)
    images = np.stack([world.pool.image(index) for index in range(len(world.pool))]).reshape(len(world.pool), -1)
    deviation = np.sqrt((((images - images.mean(axis=0)) @ rows.T) ** 2).mean())
    assert np.linalg.norm(moved) == pytest.approx(0.1 * deviation, rel=1e-3)


def best_log_odds(space: SearchSpace, model: SoftmaxLinear, target: int) -> float:
    """Return the highest log-odds that an ascent with exact values reaches in 200 steps."""

    def value(points: Any) -> Any:
        f = np.array([model.confidence(image)[target] for image in space.images(points)])
        return np.log(f / (1 - f))

    point, best = space.start, -math.inf
    steps = 0.01 * np.eye(space.size)
    for _ in range(200):
        best = max(best, float(value(point[None])[0]))
        slope = central_differences(value(space.moved(point, steps)), value(space.moved(point, -steps)), 0.01)
        point = space.moved(point, 0.3 * unit(slope)[None])[0]
    return best


@pytest.mark.parametrize("name", ["mi-face-numeric", "nes", "spsa"])
@pytest.mark.parametrize("kind", ["dct", "block", "pca"])
def test_attacks_raise_the_log_odds_in_every_space(name: str, kind: SpaceName) -> None:
    world = small_world((9, 9), 3, target=2)
    model = SoftmaxLinear(world.shape, world.classes)
    arguments = {
        "nes": {"prior": 0.0},
        "spsa": {"prior": 0.0, "gain": 0.3},
        "mi-face-numeric": {"step": 0.3, "gamma": 0.0},
    }
    client = client_class(name).model_validate({"space": kind, "coordinates": 6, **arguments[name]})
    reconstruction = converse(client, world, np.random.default_rng(0), queries=800).queries[-1].reconstruction
    space = search_space(kind, world.pool, world.shape, 6)
    start, end = (float(np.log(f / (1 - f))) for f in (model.confidence(image)[2] for image in (
        space.images(space.start[None])[0], reconstruction)))  # fmt: skip
    if kind == "pca":  # unbounded: the distance depends on the number of steps
        assert end > start + 2
    else:
        assert end - start > (1 / 3) * (best_log_odds(space, model, 2) - start)


def test_nes_and_spsa_send_pairs_around_one_image() -> None:
    world = small_world((9, 9), 3, target=2)
    for name, pairs in (("nes", 10), ("spsa", 1)):
        queries = converse(client_class(name)(space="pca", coordinates=5), world, np.random.default_rng(0)).queries
        images = np.stack([query.image for query in queries[: 2 * pairs]]).astype(np.float64)
        middle = (images[0::2] + images[1::2]) / 2
        np.testing.assert_allclose(middle, np.broadcast_to(middle[0], middle.shape), atol=1e-5)
        assert not np.array_equal(images[0], images[1])


def test_a_strong_prior_keeps_the_image_near_the_mean() -> None:
    world = small_world((9, 9), 3, target=2)
    ends = [
        converse(client_class("nes")(prior=prior), world, np.random.default_rng(0), queries=600)
        .queries[-1]
        .reconstruction
        for prior in (0.0, 100.0)
    ]
    mean = np.stack([world.pool.image(index) for index in range(len(world.pool))]).mean(axis=0)
    free, restrained = (float(np.linalg.norm(end - mean)) for end in ends)
    assert restrained < 0.5 * free


def test_log_confidence_and_log_odds_give_different_streams() -> None:
    world = small_world((9, 9), 3, target=2)
    streams = [
        converse(client_class("nes")(score=kind), world, np.random.default_rng(0), queries=60).sent
        for kind in ("log-odds", "log-confidence")
    ]
    assert streams[0] != streams[1]


CHANGES: dict[str, Any] = {
    "space": "block", "coordinates": 5, "differences": "central", "width": 0.3, "step": 0.2, "alpha": 1, "beta": 1,
    "gamma": 0.9, "pairs": 3, "sigma": 0.3, "score": "log-confidence", "prior": 9.0, "gain": 0.5, "stability": 1.0,
}  # fmt: skip
FIELDS = [(name, field) for name in ("mi-face-numeric", "nes", "spsa") for field in client_class(name).model_fields]


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_every_argument_has_an_effect(name: str, field: str) -> None:
    world = small_world((9, 9), 3, target=2)
    # A step of this length overshoots, so that some steps bring no improvement.
    base: Client = client_class(name).model_validate({"step": 40.0, "gamma": 0.0} if name == "mi-face-numeric" else {})
    changed = client_class(name).model_validate({**base.model_dump(), field: CHANGES[field]})
    streams = [converse(client, world, np.random.default_rng(0), queries=400).sent for client in (base, changed)]
    assert streams[0] != streams[1]


def test_a_refusal_during_a_gradient_estimate_returns_the_best_image_so_far() -> None:
    world = World((9, 9), 3, StrictPool.random((9, 9), 3, each=4), target=2)
    model = SoftmaxLinear(world.shape, world.classes)
    for name in ("mi-face-numeric", "nes", "spsa"):
        running = client_class(name)().run(world, np.random.default_rng(0))
        query: Query = next(running)
        for _ in range(151):
            query = running.send(model.answer(query, client_class(name).needs))
        with pytest.raises(StopIteration) as stop:
            running.send(Refusal())
        np.testing.assert_array_equal(stop.value.value, query.reconstruction)
