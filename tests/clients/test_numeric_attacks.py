"""Numeric MI-Face, NES and SPSA: their queries, and what they reach on known models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mifsim.clients import Client, Query, Refusal, World, client_class
from mifsim.clients.attackers.bases import dct_basis
from mifsim.clients.attackers.gradients import central_differences, unit
from mifsim.clients.attackers.spaces import SearchSpace, SpaceName, search_space
from mifsim.testing.worlds import SoftmaxLinear, StrictPool, converse, small_world

PIXEL_SPACES: tuple[SpaceName, ...] = ("dct", "block", "pixel")


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
FIELDS = [
    (name, field)
    for name in ("mi-face-numeric", "nes", "spsa")
    for field in client_class(name).model_fields
    if field != "generator"
]


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
