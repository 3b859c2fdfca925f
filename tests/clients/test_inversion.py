"""Inversion networks: their queries and reconstructions, and label shares compared with their closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import norm

from mifsim.clients import Answer, Attacker, Image, Refusal, World
from mifsim.clients.attackers import error_rate, inversion_network
from mifsim.clients.attackers.error_rate import ErrorRate, label_shares
from mifsim.clients.attackers.inversion import as_input, near_one_hot, reconstruct, truncated
from mifsim.clients.attackers.inversion_network import InversionNetwork
from mifsim.testing.worlds import StrictPool, converse

SHAPE = (8, 8)
CLASSES = 4


def quadrant(label: int) -> np.ndarray:
    """Return the image of a class: one quarter of it is bright."""
    image = np.full(SHAPE, 0.1, np.float32)
    row, column = divmod(label, 2)
    image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 0.9
    return image


def toy_pool(each: int = 10) -> StrictPool:
    """Return images of all classes with small random differences, in random order."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.tile(np.arange(CLASSES), each))
    images = np.stack([quadrant(int(label)) for label in labels]) + rng.uniform(-0.05, 0.05, (len(labels), *SHAPE))
    return StrictPool(images.astype(np.float32), labels)


def toy_model(image: np.ndarray) -> np.ndarray:
    """Return confidences that identify the bright quarter, so that the model can be inverted."""
    means = image.reshape(2, 4, 2, 4).mean(axis=(1, 3)).ravel()
    powers = np.exp(20 * (means - means.max()))
    return (powers / powers.sum()).astype(np.float32)


def toy_world(target: int | None = 2) -> World:
    return World(SHAPE, CLASSES, toy_pool(), target)


def run_attack(
    client: Attacker,
    world: World,
    model: Callable[[np.ndarray], np.ndarray] = toy_model,
    *,
    refuse_at: int | None = None,
    seed: int = 0,
    top: int | None = None,
    label_only: bool = False,
) -> tuple[list[Image], list[Image], Image]:
    """Run an attack to its end; return the submitted images, the current reconstructions, and the result."""
    running = client.run(world, np.random.default_rng(seed))
    sent, reconstruction = [], []
    query = next(running)
    try:
        while True:
            sent.append(query.image)
            reconstruction.append(query.reconstruction)
            confidence = model(query.image)
            label = int(confidence.argmax())
            if top is not None:
                confidence = np.where(confidence >= np.sort(confidence)[-top], confidence, np.nan)
            answer = Answer(label, None if label_only else confidence)
            query = running.send(Refusal() if len(sent) == refuse_at else answer)
    except StopIteration as stop:
        returned: Image = stop.value
        return sent, reconstruction, returned


def error(image: Image, label: int) -> float:
    """Return the mean squared error of a reconstruction of a class."""
    return float(np.mean((image - quadrant(label)) ** 2))


class TestInput:
    def test_input_is_the_scaled_log_confidence_and_0_if_clamped_or_withheld(self) -> None:
        got = as_input([1.0, np.exp(-1.0), np.exp(-10.0), 1e-30, 0.0, np.nan], floor=10.0)
        np.testing.assert_allclose(got, [1.0, 0.9, 0.0, 0.0, 0.0, 0.0], atol=1e-6)

    def test_truncation_keeps_the_highest_confidences(self) -> None:
        np.testing.assert_array_equal(truncated([0.3, np.nan, 0.4, 0.1, 0.3], 2), [0.3, np.nan, 0.4, np.nan, np.nan])

    def test_near_one_hot_adds_up_to_1(self) -> None:
        vector = near_one_hot(1, 5, 0.96)
        np.testing.assert_allclose(vector, [0.01, 0.96, 0.01, 0.01, 0.01])


@pytest.fixture
def training_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Replace the training by a recorder; return the list of its arguments (answers, images, wanted)."""
    calls: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def record(confidences: Any, images: Any, wanted: Any, **arguments: Any) -> Image:
        calls.append((np.array(confidences), np.array(images), np.array(wanted)))
        return images[0]

    monkeypatch.setattr(inversion_network, "reconstruct", record)
    monkeypatch.setattr(error_rate, "reconstruct", record)
    return calls


class TestInversionNetwork:
    def test_sends_every_auxiliary_image_exactly_once(self, training_calls: list[Any]) -> None:
        world = toy_world()
        assert isinstance(world.pool, StrictPool)
        sent, _, _ = run_attack(InversionNetwork(), world)
        assert sorted(world.pool.index_of(image) for image in sent) == list(range(40))
        assert len(training_calls) == 1

    def test_sends_the_given_number_of_images(self, training_calls: list[Any]) -> None:
        world = toy_world()
        assert isinstance(world.pool, StrictPool)
        sent, _, _ = run_attack(InversionNetwork(images=7), world)
        assert len({world.pool.index_of(image) for image in sent}) == 7

    def test_trains_on_the_answers_received_before_a_refusal(self, training_calls: list[Any]) -> None:
        sent, _, _ = run_attack(InversionNetwork(), toy_world(), refuse_at=13)
        ((answers, images, wanted),) = training_calls
        assert {image.tobytes() for image in images} == {image.tobytes() for image in sent[:12]}
        np.testing.assert_array_equal(answers, [toy_model(image) for image in images])
        assert wanted.argmax() == 2

    def test_does_not_train_if_the_first_query_is_refused(self, training_calls: list[Any]) -> None:
        sent, _, returned = run_attack(InversionNetwork(), toy_world(), refuse_at=1)
        np.testing.assert_array_equal(returned, sent[0])
        assert not training_calls

    def test_current_reconstruction_is_the_mean_weighted_by_confidence(self, training_calls: list[Any]) -> None:
        sent, reconstruction, _ = run_attack(InversionNetwork(), toy_world())
        np.testing.assert_array_equal(reconstruction[0], sent[0])
        for number in range(1, len(sent)):
            weights = [toy_model(image)[2] for image in sent[:number]]
            np.testing.assert_allclose(
                reconstruction[number], np.average(sent[:number], axis=0, weights=weights), atol=1e-6
            )

    @pytest.mark.parametrize("target", range(CLASSES))
    def test_learns_to_invert_an_invertible_model(self, target: int) -> None:
        _, _, returned = run_attack(InversionNetwork(steps=300), toy_world(target))
        assert error(returned, target) < 0.01
        assert min(error(returned, other) for other in range(CLASSES) if other != target) > 0.1

    def test_learns_from_the_highest_confidence_alone(self) -> None:
        _, _, returned = run_attack(InversionNetwork(steps=300), toy_world(1), top=1)
        assert error(returned, 1) < 0.01

    def test_the_same_answers_in_another_order_train_the_same_network(self) -> None:
        one = run_attack(InversionNetwork(steps=5), toy_world(), seed=1)
        other = run_attack(InversionNetwork(steps=5), toy_world(), seed=2)
        assert [image.tobytes() for image in one[0]] != [image.tobytes() for image in other[0]]
        np.testing.assert_array_equal(one[2], other[2])

    def test_a_label_alone_counts_as_certain(self, training_calls: list[Any]) -> None:
        run_attack(InversionNetwork(), toy_world(), label_only=True)
        ((answers, images, _),) = training_calls
        for answer, image in zip(answers, images, strict=True):
            label = int(toy_model(image).argmax())
            np.testing.assert_array_equal(answer, [1.0 if k == label else np.nan for k in range(CLASSES)])


class TestErrorRate:
    def test_sends_the_given_number_of_copies_of_each_image(self, training_calls: list[Any]) -> None:
        client = ErrorRate(images=5, draws=4, noise=0.1)
        sent, _, _ = run_attack(client, toy_world(), label_only=True)
        assert len(sent) == 20
        assert len({image.tobytes() for image in sent}) == 20
        ((_, images, _),) = training_calls
        for number in range(5):
            copies = np.stack(sent[4 * number : 4 * number + 4])
            distances = [np.abs(copies - image).mean() for image in images]
            assert min(distances) == pytest.approx(0.1 * np.sqrt(2 / np.pi), abs=0.02)

    def test_label_shares_of_a_linear_classifier_match_their_closed_form(self, training_calls: list[Any]) -> None:
        rng = np.random.default_rng(5)
        images = rng.uniform(0.4, 0.6, (30, *SHAPE)).astype(np.float32)  # far from 0 and 1: nothing is clipped
        weights = rng.normal(0, 1, SHAPE)
        offset = np.median(np.tensordot(images, weights, 2))

        def linear_model(image: np.ndarray) -> np.ndarray:
            above = float(np.vdot(weights, image)) > offset
            return np.array([not above, above], np.float32)

        world = World(SHAPE, 2, StrictPool(images, np.zeros(30, np.int64)), 1)
        run_attack(ErrorRate(images=30, draws=400, noise=0.05, prior=1e-9), world, linear_model, label_only=True)
        ((shares, order, _),) = training_calls
        margin = np.tensordot(order, weights, 2) - offset
        expected = norm.cdf(margin / (0.05 * np.linalg.norm(weights)))
        assert np.abs(shares[:, 1] - expected).max() < 5 * 0.5 / np.sqrt(400)
        assert np.abs(shares[:, 1] - expected).mean() < 0.5 / np.sqrt(400)

    def test_trains_on_the_images_whose_copies_were_all_answered(self, training_calls: list[Any]) -> None:
        run_attack(ErrorRate(images=9, draws=5), toy_world(), refuse_at=18, label_only=True)
        ((shares, images, _),) = training_calls
        assert len(shares) == len(images) == 3

    def test_returns_its_current_reconstruction_if_refused_during_the_first_image(
        self, training_calls: list[Any]
    ) -> None:
        _, reconstruction, returned = run_attack(ErrorRate(draws=5), toy_world(), refuse_at=5, label_only=True)
        np.testing.assert_array_equal(returned, reconstruction[-1])
        assert not training_calls

    def test_current_reconstruction_is_the_mean_weighted_by_the_share_of_the_target(
        self, training_calls: list[Any]
    ) -> None:
        def arbitrary_model(image: np.ndarray) -> np.ndarray:
            return np.eye(CLASSES)[2 if float(image.sum() * 1e3) % 2 < 1 else 0]

        sent, reconstruction, _ = run_attack(
            ErrorRate(images=12, draws=3, noise=0.01, prior=0.5), toy_world(), arbitrary_model, label_only=True
        )
        ((_, images, _),) = training_calls
        queried: list[Image] = []
        for number in range(3, 36, 3):
            copies = sent[number - 3 : number]
            queried.append(min(images, key=lambda image: float(np.mean((np.mean(copies, axis=0) - image) ** 2))))
        weights = [
            (sum(int(arbitrary_model(copy).argmax()) == 2 for copy in sent[k : k + 3]) + 0.5) / 5
            for k in range(0, 33, 3)
        ]
        assert len(set(weights)) > 1
        for count in range(1, 12):
            expected = np.average(queried[:count], axis=0, weights=weights[:count])
            np.testing.assert_allclose(reconstruction[3 * count], expected, atol=1e-6)

    @pytest.mark.parametrize("target", [0, 3])
    def test_learns_from_labels_alone(self, target: int) -> None:
        client = ErrorRate(images=40, draws=5, noise=0.3, steps=300)
        _, _, returned = run_attack(client, toy_world(target), label_only=True)
        assert error(returned, target) < 0.01

    def test_label_shares_are_the_mean_of_a_dirichlet_posterior(self) -> None:
        np.testing.assert_allclose(label_shares([3, 0, 1], prior=0.5), [3.5 / 5.5, 0.5 / 5.5, 1.5 / 5.5])


@pytest.mark.parametrize("shape", [(8, 8), (13, 10), (9, 17, 3)])
def test_images_of_any_shape_are_reconstructed(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    images = list(rng.random((2, *shape), np.float32))
    got = reconstruct([[1, 0], [0, 1]], images, [0, 1], top=2, floor=10.0, steps=1)
    assert got.shape == shape
    assert got.dtype == np.float32
    assert 0 <= got.min() <= got.max() <= 1


def behaviour(client: Attacker, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """Return all that a client's arguments affect: its submitted images, and the arguments of its training."""
    calls: list[Any] = []

    def record(confidences: Any, images: Any, wanted: Any, **arguments: Any) -> Image:
        calls.append((np.array(confidences).tobytes(), np.array(wanted).tobytes(), sorted(arguments.items())))
        return images[0]

    for module in (inversion_network, error_rate):
        monkeypatch.setattr(module, "reconstruct", record)
    transcript = converse(client, toy_world(), np.random.default_rng(0), queries=10**4)
    return transcript.sent, calls


CHANGES = {"images": 3, "steps": 7, "floor": 3.0, "top": 2, "certainty": 0.5, "draws": 2, "noise": 0.1, "prior": 3.0}


@pytest.mark.parametrize(
    ("base", "field"),
    [(client, field) for client in (InversionNetwork(), ErrorRate(images=5)) for field in type(client).model_fields],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_argument_has_an_effect(base: Attacker, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = base.model_copy(update={field: CHANGES[field]})
    assert behaviour(base, monkeypatch) != behaviour(changed, monkeypatch)


@pytest.mark.parametrize("client", [InversionNetwork, ErrorRate])
@pytest.mark.parametrize(("field", "value"), [("images", 0), ("steps", 0), ("floor", 0), ("certainty", 1.0)])
def test_invalid_arguments_are_refused(client: type[Attacker], field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        client.model_validate({field: value})
