"""The attacks with surrogates on a known function: the queries that are shared, those of a class, and the result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mifsim.clients import Answer, Attacker, Query, Refusal, World
from mifsim.clients.attackers import surrogate_attacker
from mifsim.clients.attackers.label_surrogate import LabelSurrogate
from mifsim.clients.attackers.latent import LatentSpace
from mifsim.clients.attackers.surrogate_search import SurrogateSearch
from mifsim.testing.worlds import StrictPool

SHAPE = (2, 4)
CENTRES = np.random.default_rng(0).uniform(-1.5, 1.5, (3, 8))
POOL = StrictPool.random(SHAPE, 3, each=4)
SPACE = LatentSpace(8, SHAPE, lambda z: z / 10 + 0.5)


def confidence(z: np.ndarray) -> np.ndarray:
    """Return the confidence of the model, shape (n, 3): the softmax of the negative squared distances."""
    logits = -((z[:, None] - CENTRES) ** 2).sum(axis=2)
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def log_odds(z: np.ndarray, target: int) -> np.ndarray:
    f = confidence(z)
    return np.asarray(np.log(f[:, target]) - np.log(np.delete(f, target, axis=1).sum(axis=1)))


def points(images: Any) -> np.ndarray:
    return (np.asarray(images, np.float64).reshape(len(images), -1) - 0.5) * 10


class Perfect:
    """A surrogate that has learned the model."""

    def log_confidence(self, images: np.ndarray) -> np.ndarray:
        return np.log(confidence(points(images)))


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Replace space and training; return the points and the answers of each training."""
    calls = []

    def train(space: LatentSpace, z: np.ndarray, answers: np.ndarray, **arguments: Any) -> Perfect:
        calls.append((z, answers))
        return Perfect()

    monkeypatch.setattr(surrogate_attacker, "fit_latent", lambda *given, generator: SPACE)
    monkeypatch.setattr(surrogate_attacker, "trained_surrogate", train)
    return calls


def attack(client: Attacker, target: int, seed: int = 0, refuse_at: int = 0) -> tuple[list[Query], np.ndarray]:
    """Run an attack to its end; return its queries and its result."""
    running = client.run(World(SHAPE, 3, POOL, target), np.random.default_rng(seed))
    sent = [next(running)]
    try:
        while True:
            f = confidence(points([sent[-1].image]))[0].astype(np.float32)
            reply = Refusal() if len(sent) == refuse_at else Answer(int(f.argmax()), f if client.needs else None)
            sent.append(running.send(reply))
    except StopIteration as stop:
        return sent, stop.value


def images(sent: list[Query]) -> list[bytes]:
    return [query.image.tobytes() for query in sent]


@pytest.mark.parametrize(
    ("client", "shared", "others"),
    [(SurrogateSearch(pool=40, queries=57, turns=5), 40, 57), (LabelSurrogate(images=20, turns=5), 60, 0)],
    ids=["surrogate-search", "label-surrogate"],
)
def test_the_shared_queries_are_the_same_for_every_class_and_seed(
    trained_on: list[Any], client: Attacker, shared: int, others: int
) -> None:
    streams = [attack(client, target, seed)[0] for target, seed in ((0, 0), (1, 0), (2, 5))]
    for sent in streams:
        assert [query.shared for query in sent] == [True] * shared + [False] * others
        assert images(sent)[:shared] == images(streams[0])[:shared]
    assert len({tuple(images(sent)[shared:]) for sent in streams}) == (3 if others else 1)
    for z, answers in trained_on:
        np.testing.assert_array_equal(z, trained_on[0][0])
        np.testing.assert_array_equal(answers, trained_on[0][1])


def test_surrogate_search_starts_at_the_surrogates_optimum_and_returns_its_best_image(trained_on: list[Any]) -> None:
    sent, found = attack(SurrogateSearch(pool=40, queries=200, turns=5), 1)
    every = log_odds(points([query.image for query in sent]), 1)
    pool, start = every[:40], every[40]
    assert start > pool.max()
    assert every.max() > start
    assert log_odds(points([found]), 1)[0] == pytest.approx(every.max())
    for number in (1, 20, 60, 150):
        guess = sent[number].guess
        assert guess is not None
        assert log_odds(points([guess]), 1)[0] == pytest.approx(every[:number].max())


def test_label_surrogate_sends_independent_samples_and_inverts_the_surrogate(trained_on: list[Any]) -> None:
    sent, found = attack(LabelSurrogate(images=40, turns=100, prior=0.0), 2)
    z = points([query.image for query in sent])
    np.testing.assert_allclose(z.std(), 1, atol=0.1)
    steps = np.linalg.norm(np.diff(z, axis=0), axis=1)
    assert steps.mean() == pytest.approx(4, abs=0.3)  # √(2 · 8), of independent points
    every = confidence(z)
    ((_, answers),) = trained_on
    np.testing.assert_array_equal(answers, np.eye(3)[every.argmax(axis=1)])
    assert confidence(points([found]))[0, 2] > every[:, 2].max()
    first = int(np.flatnonzero(every.argmax(axis=1) == 2)[0])
    assert sent[-1].guess is not None
    np.testing.assert_array_equal(sent[-1].guess, sent[first].image)


def test_a_refusal_ends_the_search_with_its_best_image_and_lets_the_other_train(trained_on: list[Any]) -> None:
    sent, found = attack(SurrogateSearch(pool=40, queries=50), 1, refuse_at=20)
    assert len(sent) == 20
    every = confidence(points([query.image for query in sent[:-1]]))[:, 1]
    assert confidence(points([found]))[0, 1] == pytest.approx(every.max())
    assert not trained_on
    sent, found = attack(LabelSurrogate(images=20, turns=50, prior=0.0), 1, refuse_at=30)
    assert len(sent) == 30
    ((z, answers),) = trained_on
    assert len(z) == len(answers) == 29
    every = confidence(points([query.image for query in sent[:-1]]))[:, 1]
    assert confidence(points([found]))[0, 1] > every.max()


def test_without_an_image_of_the_target_the_first_one_is_returned(trained_on: list[Any]) -> None:
    running = LabelSurrogate(images=2).run(World(SHAPE, 3, POOL, 1), np.random.default_rng(0))
    first = next(running)
    for _ in range(2 * 3 - 1):
        running.send(Answer(0))
    with pytest.raises(StopIteration) as stop:
        running.send(Answer(0))
    np.testing.assert_array_equal(stop.value.value, first.image)
    assert not trained_on
