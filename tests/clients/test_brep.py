"""BREP on classes of known shape, a half-space and a ball, in a latent space that is a scaling of the pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mifsim.clients import Answer, Query, Refusal, World
from mifsim.clients.attackers import brep
from mifsim.clients.attackers.brep import BREP
from mifsim.clients.attackers.latent import LatentSpace
from mifsim.testing.worlds import SoftmaxLinear, StrictPool, converse, small_world

SHAPE = (4, 4)
SIZE = 16
SCALE = 20.0
"""Scale of latents to pixels: latents from -10 to 10 are pixels from 0 to 1."""


def point(image: np.ndarray) -> np.ndarray:
    """Return the latent point of an image."""
    return (image.ravel().astype(np.float64) - 0.5) * SCALE


@pytest.fixture(autouse=True)
def _latents_are_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LatentSpace(SIZE, SHAPE, lambda z: z / SCALE + 0.5, lambda images: np.empty(0))
    monkeypatch.setattr(brep, "fit_latent", lambda pool, shape, kind, size, generator: plain)


WORLD = World(SHAPE, 2, StrictPool.random(SHAPE, 2, each=10), target=1)


def walk(
    client: BREP, in_class: Callable[[np.ndarray], bool], queries: int, seed: int = 0
) -> tuple[list[Query], list[bool]]:
    """Answer `queries` queries; return them, and for each of them whether its point is in the class."""
    running = client.run(WORLD, np.random.default_rng(seed))
    sent, inside = [next(running)], []
    for _ in range(queries):
        inside.append(in_class(point(sent[-1].image)))
        sent.append(running.send(Answer(int(inside[-1]))))
    return sent[:-1], inside


def test_it_ends_after_the_given_number_of_iterations_at_one_radius() -> None:
    # All points are of the class: the radius grows at once, and the attack never ends.
    sent, _ = walk(BREP(iterations=3), lambda z: True, 500)
    assert len(sent) == 500
    # None but the first is: the radius never grows, and every iteration has 32 points and a centre.
    running = BREP(iterations=3).run(WORLD, np.random.default_rng(0))
    first = next(running)
    running.send(Answer(1))
    for _ in range(3 * 33 - 1):
        running.send(Answer(0))
    with pytest.raises(StopIteration) as stop:
        running.send(Answer(0))
    np.testing.assert_array_equal(stop.value.value, first.image)


def centres(sent: list[Query], inside: list[bool]) -> list[np.ndarray]:
    """Return the distinct centres of the spheres: the current reconstructions after the first point in the class."""
    first = inside.index(True)
    distinct: list[np.ndarray] = []
    for query in sent[first + 1 :]:
        assert query.guess is not None
        if not distinct or not np.array_equal(distinct[-1], query.guess):
            distinct.append(query.guess)
    return [point(image) for image in distinct]


def half_space(z: np.ndarray) -> bool:
    return bool(z[0] > 1.0)


def ball(z: np.ndarray) -> bool:
    return bool(np.linalg.norm(z - 1.0) < 4.5)  # centred at (1, …, 1)


def test_draws_from_the_prior_until_a_point_is_in_the_target_class() -> None:
    sent, inside = walk(BREP(), lambda z: bool(z[0] > 1.0), 60)
    first = inside.index(True)
    assert first > 0
    start = np.concatenate([point(query.image) for query in sent[: first + 1]])
    assert abs(start.mean()) < 5 / np.sqrt(len(start))
    assert start.std() == pytest.approx(1.0, abs=0.2)


def test_walks_away_from_the_boundary_of_a_half_space() -> None:
    sent, inside = walk(BREP(radius=4.0, growth=1.0 + 1e-9, bound=9.0), half_space, 2000)
    path = centres(sent, inside)
    assert path[0][0] < 2.5
    # The radius is 4: with a centre beyond 5, no point is outside the class, and the walk ends. In 16 dimensions few
    # points of a sphere are near its pole, so the walk slows down earlier.
    assert 3.0 < path[-1][0] < 5.0 + 4 / 3
    assert np.abs(path[-1][1:]).mean() < 2.5  # no drift along the other axes


def test_walks_towards_the_centre_of_a_ball() -> None:
    sent, inside = walk(BREP(radius=3.0), ball, 4000)
    path = np.array(centres(sent, inside))
    distances = np.linalg.norm(path - 1.0, axis=1)
    assert distances[-10:].mean() < 0.5 * distances[0]


@pytest.mark.parametrize("in_class", [half_space, ball])
def test_the_centre_never_leaves_the_class(in_class: Callable[[np.ndarray], bool]) -> None:
    for seed in range(5):
        sent, inside = walk(BREP(), in_class, 500, seed)
        if True in inside:
            assert all(in_class(centre) for centre in centres(sent, inside)[:-1])


def sphere_radii(client: BREP, in_class: Callable[[int, int], bool], turns: int) -> list[float]:
    """Return the radius of each sphere; `in_class(turn, number)` decides whether a point is in the class."""
    running = client.run(WORLD, np.random.default_rng(3))
    query = next(running)
    centre = point(query.image)
    query = running.send(Answer(1))
    radii = []
    for turn in range(turns):
        radii.append(float(np.linalg.norm(point(query.image) - centre)))
        inside = [in_class(turn, number) for number in range(32)]  # BREP's default number of points
        for label in inside:
            query = running.send(Answer(int(label)))
        if not all(inside):  # reject the new centre, so that all spheres have the first one
            query = running.send(Answer(0))
    return radii


@pytest.mark.parametrize(
    ("inside", "grows"),
    [(32, True), (29, True), (28, False), (26, False), (0, False)],  # of 32 points: a mean above 0.75 needs 29 inside
)
def test_the_sphere_grows_when_enough_points_are_inside(inside: int, grows: bool) -> None:
    client = BREP(radius=0.5, bound=10.0)
    radii = sphere_radii(client, lambda turn, number: number < inside, 4)
    factor = 1.3 if grows else 1.0
    np.testing.assert_allclose(radii, 0.5 * factor ** np.arange(4), rtol=1e-5)


@pytest.mark.parametrize(("radius", "step", "length"), [(0.9, 3.0, 0.3), (6.0, 3.0, 2.0), (6.0, 1.5, 1.5)])
def test_a_step_away_from_outside_points_is_a_third_of_the_radius_or_the_maximum(
    radius: float, step: float, length: float
) -> None:
    client = BREP(radius=radius, step=step, bound=9.9)
    running = client.run(WORLD, np.random.default_rng(1))
    query = next(running)
    centre = point(query.image)
    outside = []
    for number in range(33):
        query = running.send(Answer(1 if number == 0 else int(number % 4 != 1)))
        if number % 4 == 0 and number < 32:
            outside.append((point(query.image) - centre) / radius)
    moved = point(query.image) - centre
    np.testing.assert_allclose(moved, -length * np.mean(outside, axis=0), atol=0.02)


def test_the_centre_is_not_queried_if_all_points_are_inside() -> None:
    sent, inside = walk(BREP(points=8), lambda z: True, 100)
    assert all(inside)
    guesses = {query.guess.tobytes() for query in sent[1:] if query.guess is not None}
    assert guesses == {sent[0].image.tobytes()}


def test_latents_stay_within_the_bound() -> None:
    sent, _ = walk(BREP(bound=1.5, radius=5.0), half_space, 200)
    assert max(np.abs(point(query.image)).max() for query in sent[1:]) <= 1.5 + 1e-5


def test_a_refusal_at_any_query_returns_the_last_centre() -> None:
    for stop in (1, 2, 20, 34, 100):
        transcript = converse(BREP(), WORLD, np.random.default_rng(0), queries=10**4, refuse_at=stop)
        assert transcript.ended
        assert transcript.returned is not None
        if stop > 1:
            assert transcript.reconstruction[-1] == transcript.returned.tobytes()


def test_pixel_search_starts_from_an_auxiliary_image_and_stays_near_the_centre() -> None:
    world = small_world((6, 5), 3)
    assert isinstance(world.pool, StrictPool)
    model = SoftmaxLinear(world.shape, world.classes)
    world = replace(world, target=int(model.confidence(world.pool.image(0)).argmax()))
    transcript = converse(BREP(space="pixel"), world, np.random.default_rng(0), queries=200)
    assert isinstance(world.pool, StrictPool)
    assert world.pool.index_of(transcript.queries[0].image) >= 0
    distance = np.linalg.norm(transcript.queries[-1].image - transcript.queries[-1].reconstruction)
    assert 0 < distance <= 2 * 1.3**10


@pytest.mark.parametrize(("space", "points"), [("pca", 32), ("pixel", 64)])
def test_a_sphere_has_32_points_as_in_the_paper_and_64_over_pixels(space: str, points: int) -> None:
    running = BREP.model_validate({"space": space, "radius": 1.0}).run(WORLD, np.random.default_rng(0))
    query = next(running)
    centre, queried = query.image, 0
    query = running.send(Answer(1))
    first = np.linalg.norm(query.image - centre)
    while np.linalg.norm(query.image - centre) > first / 2:  # the next centre is a third of the radius away, or less
        query = running.send(Answer(0))
        queried += 1
    assert queried == points


CHANGES = {"space": "pixel", "size": 5, "points": 3, "radius": 0.1, "growth": 2.0, "inside": -0.9, "step": 0.01,
           "bound": 0.5}  # fmt: skip


@pytest.mark.parametrize("field", sorted(set(BREP.model_fields) - {"size", "generator", "iterations"}))
def test_every_argument_has_an_effect(field: str) -> None:
    changed = BREP.model_validate({field: CHANGES[field]})
    streams = [[query.image.tobytes() for query in walk(client, ball, 300, 1)[0]] for client in (BREP(), changed)]
    assert streams[0] != streams[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("space", "vae"), ("size", 0), ("points", 1), ("radius", 0), ("growth", 1.0), ("inside", 1.0), ("step", 0),
     ("bound", float("inf")), ("iterations", 0)],
)  # fmt: skip
def test_invalid_arguments_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        BREP.model_validate({field: value})


def test_a_refusal_ends_the_attack_at_once() -> None:
    running = BREP().run(WORLD, np.random.default_rng(0))
    next(running)
    with pytest.raises(StopIteration):
        running.send(Refusal())
