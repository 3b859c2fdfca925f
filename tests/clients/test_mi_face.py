"""MI-Face with scripted answers, and on a model whose gradient is known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from mifsim.clients import Answer, Image, Query, Refusal, World
from mifsim.clients.attackers.mi_face import MIFace
from mifsim.testing.worlds import SoftmaxLinear, StrictPool, converse, small_world

SHAPE = (12, 12)
WORLD = World(SHAPE, 2, StrictPool.random(SHAPE, 2, each=1), target=1)
FLAT = np.zeros(SHAPE, np.float32)


def answer(confidence: float, gradient: Image | None = FLAT) -> Answer:
    return Answer(0, np.array([1 - confidence, confidence], np.float32), gradient)


def run_scripted(
    client: MIFace, replies: Sequence[Answer | Refusal], seed: int = 0
) -> tuple[list[Query], Image | None]:
    """Give scripted replies; return the queries, and the result (None if the attack has not ended)."""
    running = client.run(WORLD, np.random.default_rng(seed))
    queries = [next(running)]
    for reply in replies:
        try:
            queries.append(running.send(reply))
        except StopIteration as stop:
            return queries, stop.value
    return queries, None


def test_follows_algorithm_1_on_a_model_whose_gradient_is_known() -> None:
    world = small_world((9, 9), 3, target=2)
    model = SoftmaxLinear(world.shape, world.classes)
    x = np.zeros(world.shape)
    for query in converse(MIFace(step=0.2, beta=0, gamma=0.0), world, np.random.default_rng(0)).queries:
        np.testing.assert_allclose(query.image, x, atol=2e-6)
        x = np.clip(x + 0.2 * model.gradient(x, 2), 0, 1)
    assert model.confidence(np.zeros(world.shape))[2] < 0.2
    assert model.confidence(x)[2] > 0.95


def test_a_unit_step_has_the_given_length_for_any_gradient() -> None:
    gradient = np.full(SHAPE, 1e-9, np.float32)
    queries, _ = run_scripted(
        MIFace(steps="unit", step=0.6, beta=0, gamma=0.0), [answer(0.5, gradient), answer(0.5)] * 2
    )
    lengths = [float(np.linalg.norm(b.image - a.image)) for a, b in pairwise(queries)]
    assert lengths == pytest.approx([0.6, 0, 0.6, 0], abs=1e-6)


def test_it_can_start_from_the_mean_auxiliary_image() -> None:
    queries, _ = run_scripted(MIFace(start="mean"), [])
    mean = (WORLD.pool.image(0) + WORLD.pool.image(1)) / 2
    np.testing.assert_allclose(queries[0].image, mean, atol=1e-6)


def test_sends_the_start_image_and_then_alpha_steps() -> None:
    queries, returned = run_scripted(MIFace(alpha=4), [answer(0.1 * k) for k in range(1, 6)])
    assert len(queries) == 5
    assert returned is not None


def test_returns_the_best_iterate_not_the_last() -> None:
    gradient = np.full(SHAPE, 1.0, np.float32)  # a step of 0.1: the iterates are 0, 0.1, 0.2, …
    confidences = [0.1, 0.5, 0.3, 0.6, 0.2]
    queries, returned = run_scripted(MIFace(), [*(answer(c, gradient) for c in confidences), Refusal()])
    reconstruction = [float(query.guess[0, 0]) for query in queries if query.guess is not None]
    # The guess of a query is the best iterate answered before it; that of the first query is the start.
    assert reconstruction == pytest.approx([0.0, 0.0, 0.1, 0.1, 0.3, 0.3])
    assert returned is not None
    assert np.unique(returned) == pytest.approx(0.3)


def test_stops_after_beta_steps_without_improvement() -> None:
    queries, returned = run_scripted(MIFace(beta=3), [answer(c) for c in (0.2, 0.5, 0.4, 0.6, 0.6, 0.5, 0.3, 0.9)])
    assert len(queries) == 7  # 0.6 is the best, and the next three are no better
    assert returned is not None


def test_stops_at_a_cost_of_gamma() -> None:
    queries, returned = run_scripted(MIFace(gamma=0.25), [answer(c) for c in (0.5, 0.74, 0.75, 0.8)])
    assert len(queries) == 3
    assert returned is not None


def test_zero_disables_both_stopping_rules() -> None:
    queries, returned = run_scripted(MIFace(beta=0, gamma=0.0), [answer(1.0)] * 300)
    assert len(queries) == 301
    assert returned is None


def noisy_greys(arguments: dict[str, Any], steps: int) -> list[Image]:
    """Return the images after one step from black to 0.5; the gradient is then 0, so all further change is noise."""
    client = MIFace(beta=0, gamma=0.0, noise=0.01, **arguments)
    up = answer(0.5, np.full(SHAPE, 5.0, np.float32))
    queries, _ = run_scripted(client, [up, *[answer(0.5)] * steps])
    return [query.image for query in queries[1:]]


def test_noise_on_the_iterate_accumulates() -> None:
    images = noisy_greys({"noise_on": "iterate"}, 63)
    moved = images[-1] - images[0]
    assert moved.std() == pytest.approx(0.01 * np.sqrt(63), rel=0.2)  # a random walk


def test_noise_on_the_copy_does_not_accumulate() -> None:
    images = noisy_greys({"noise_on": "copy"}, 63)
    for image in images:
        assert (image - 0.5).std() == pytest.approx(0.01, rel=0.25)
    assert np.corrcoef(images[0].ravel(), images[-1].ravel())[0, 1] == pytest.approx(0, abs=0.25)


def test_with_noise_on_the_copy_the_guess_is_the_clean_image() -> None:
    up = answer(0.5, np.full(SHAPE, 5.0, np.float32))
    queries, _ = run_scripted(MIFace(noise=0.01, noise_on="copy"), [answer(0.1, up.gradient), up])
    assert queries[-1].guess is not None
    assert np.unique(queries[-1].guess) == pytest.approx(0.5)


def test_denoise_sharpen_damps_each_frequency_as_documented() -> None:
    k, amplitude = 5, 0.2
    wave = np.cos(np.pi * k * (np.arange(SHAPE[1]) + 0.5) / SHAPE[1])  # a mirrored blur only scales it
    image = np.broadcast_to(0.5 + amplitude * wave, SHAPE)
    tap = np.exp(-1 / (2 * 0.7**2))
    tap /= 1 + 2 * tap
    gain = 1 - 2 * tap * (1 - np.cos(np.pi * k / SHAPE[1]))
    to_image = answer(0.5, (image * 10).astype(np.float32))
    queries, _ = run_scripted(MIFace(process="denoise-sharpen"), [to_image])
    expected = 0.5 + amplitude * (1 - (1 - gain) ** 2) * wave
    np.testing.assert_allclose(queries[1].image, np.broadcast_to(expected, SHAPE), atol=1e-5)


def test_denoise_sharpen_never_amplifies_an_image() -> None:
    noise = np.random.default_rng(0).random(SHAPE)
    to_noise = answer(0.5, (noise * 10).astype(np.float32))
    queries, _ = run_scripted(MIFace(process="denoise-sharpen", beta=0, gamma=0.0), [to_noise, *[answer(0.5)] * 200])
    spread = [float(query.image.std()) for query in queries[1:]]
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(spread))


@pytest.mark.parametrize("confidence", [None, np.array([0.9, np.nan], np.float32)], ids=["label", "top-1"])
def test_a_withheld_confidence_counts_as_zero(confidence: npt.NDArray[np.float32] | None) -> None:
    withheld = Answer(0, confidence, np.full(SHAPE, 1.0, np.float32))
    queries, returned = run_scripted(MIFace(beta=0), [withheld, withheld, answer(0.3), Refusal()])
    assert np.unique(queries[2].image) == pytest.approx(0.2)  # the gradient is still followed
    assert returned is not None
    assert np.unique(returned) == pytest.approx(0.2)


def test_an_answer_without_the_gradient_is_an_error() -> None:
    with pytest.raises(ValueError, match="white-box"):
        run_scripted(MIFace(), [answer(0.3, None)])


def test_an_attacker_without_a_target_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"world\.target"):
        next(MIFace().run(World(SHAPE, 2, WORLD.pool), np.random.default_rng(0)))


CHANGES = {
    "start": "mean",
    "steps": "unit",
    "step": 0.3,
    "alpha": 3,
    "beta": 1,
    "gamma": 0.9,
    "process": "denoise-sharpen",
    "noise": 0.02,
    "noise_on": "copy",
}


@pytest.mark.parametrize("field", MIFace.model_fields)
def test_every_argument_has_an_effect(field: str) -> None:
    base = MIFace(noise=0.01, beta=30)
    changed = MIFace.model_validate({**base.model_dump(), field: CHANGES[field]})
    world = small_world((9, 9), 3, target=2)
    streams = [converse(client, world, np.random.default_rng(0)).sent for client in (base, changed)]
    assert streams[0] != streams[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("step", 0), ("step", float("inf")), ("alpha", 0), ("beta", -1), ("gamma", 1.0), ("gamma", -0.1),
     ("process", "blur"), ("noise", -0.1), ("noise", float("nan")), ("noise_on", "both"), ("lambda", 0.1)],
)  # fmt: skip
def test_invalid_arguments_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        MIFace.model_validate({field: value})
