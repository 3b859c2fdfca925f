"""The genetic search on a known function: the confidence decreases with the distance to a hidden point."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mifsim.clients import Answer, Query, Refusal, World
from mifsim.clients.attackers import genetic
from mifsim.clients.attackers.genetic import Genetic
from mifsim.clients.attackers.latent import LatentSpace
from mifsim.testing.worlds import StrictPool

SHAPE = (2, 4)
SIZE = 8
SCALE = 20.0
HIDDEN = np.array([2.0, -1.5, 1.0, 0.0, -1.0, 2.0, 0.5, -2.0])
WORLD = World(SHAPE, 2, StrictPool.random(SHAPE, 2, each=10), target=1)


def point(image: np.ndarray) -> np.ndarray:
    """Return the latent point of an image."""
    return (image.ravel().astype(np.float64) - 0.5) * SCALE


def confidence(z: np.ndarray) -> float:
    return float(np.exp(-np.sum((z - HIDDEN) ** 2)))


@pytest.fixture(autouse=True)
def _latents_are_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LatentSpace(SIZE, SHAPE, lambda z: z / SCALE + 0.5, lambda images: np.empty(0))
    monkeypatch.setattr(genetic, "fit_latent", lambda pool, shape, kind, size, generator: plain)


def breed(
    client: Genetic, queries: int, seed: int = 0, f: Any = confidence
) -> tuple[list[Query], list[float], np.ndarray | None]:
    """Answer up to `queries` queries; return them, the confidences, and the result (None if it has not ended)."""
    running = client.run(WORLD, np.random.default_rng(seed))
    sent, confidences = [next(running)], []
    for _ in range(queries):
        confidences.append(f(point(sent[-1].image)))
        vector = np.array([1 - confidences[-1], confidences[-1]], np.float32)
        try:
            sent.append(running.send(Answer(int(vector.argmax()), vector)))
        except StopIteration as stop:
            return sent, confidences, stop.value
    return sent, confidences, None


def test_finds_the_hidden_point() -> None:
    _, confidences, returned = breed(Genetic(generations=40, spread=0.5), 10**5)
    assert max(confidences[:200]) < 0.2
    assert returned is not None
    assert confidence(point(returned)) == pytest.approx(max(confidences), rel=1e-3)
    assert max(confidences) > 0.7


def test_the_current_reconstruction_is_the_best_answered_so_far() -> None:
    sent, confidences, _ = breed(Genetic(pool=30, population=10), 300)
    for number in range(1, len(sent)):
        guess = sent[number].guess
        assert guess is not None
        np.testing.assert_array_equal(guess, sent[int(np.argmax(confidences[:number]))].image)


def test_queries_the_pool_and_then_each_generation_without_its_elite() -> None:
    sent, confidences, returned = breed(Genetic(pool=30, population=10, generations=4), 10**4)
    assert len(sent) == len(confidences) == 30 + 4 * 9
    assert returned is not None
    start = np.array([point(query.image) for query in sent[:30]])
    assert start.std() == pytest.approx(1.0, abs=0.15)


def test_with_tiny_mutations_children_have_their_parents_coordinates() -> None:
    client = Genetic(pool=20, population=6, generations=1, mutation=0.0, spread=1e-7)
    sent, confidences, _ = breed(client, 10**4)
    pool = np.array([point(query.image) for query in sent[:20]])
    fittest = pool[np.argsort(confidences[:20])[-6:]]
    for child in (point(query.image) for query in sent[20:]):
        assert np.abs(fittest - child).min(axis=0).max() < 1e-4


def test_parents_are_drawn_in_proportion_to_their_confidence() -> None:
    # The parents' shares are 0.75, 0.125 and 0.125; the children's coordinates come from them in the same shares.
    client = Genetic(pool=3, population=3, generations=1, mutation=0.0)
    parents = np.array([[1.0] * SIZE, [2.0] * SIZE, [-1.0] * SIZE])
    fitness = np.log([0.75, 0.125, 0.125])
    rng = np.random.default_rng(0)
    children = np.concatenate([client._children(parents, fitness, rng) for _ in range(2000)])
    shares = [np.isclose(children, value).mean() for value in (1.0, 2.0, -1.0)]
    kept = 1 - 1 / SIZE  # one coordinate of each child mutates
    np.testing.assert_allclose(shares, kept * np.array([0.75, 0.125, 0.125]), atol=0.02)


def test_mutations_have_the_given_rate() -> None:
    client = Genetic(mutation=0.1, spread=1.0, bound=100.0)
    same = np.zeros((50, SIZE))
    children = np.concatenate([client._children(same, np.zeros(50), np.random.default_rng(k)) for k in range(50)])
    mutated = children != 0
    assert mutated.any(axis=1).all()
    # Each coordinate mutates with p = 0.1; the share 0.9^8 of children that would have no mutation get one.
    assert mutated.mean() == pytest.approx(0.1 + 0.9**SIZE / SIZE, abs=0.01)
    assert children[mutated].std() == pytest.approx(1.0, abs=0.05)


def test_no_query_is_repeated() -> None:
    sent, _, _ = breed(Genetic(pool=30, population=10), 2000)
    assert len({query.image.tobytes() for query in sent}) == len(sent)


def test_a_withheld_confidence_counts_as_zero() -> None:
    withheld = breed(Genetic(pool=30, population=10), 300, f=lambda z: np.nan)
    zero = breed(Genetic(pool=30, population=10), 300, f=lambda z: 0.0)
    assert [query.image.tobytes() for query in withheld[0]] == [query.image.tobytes() for query in zero[0]]


def test_latents_stay_within_the_bound() -> None:
    sent, _, _ = breed(Genetic(pool=30, population=10, bound=0.7, spread=3.0), 300)
    assert max(np.abs(point(query.image)).max() for query in sent) == pytest.approx(0.7, abs=1e-5)


def test_a_shared_pool_is_the_same_for_all_attackers_and_counts_as_shared() -> None:
    client = Genetic(pool=30, population=10, generations=2, shared="pool")
    streams = [breed(client, 10**4, seed)[0] for seed in (0, 1)]
    images = [[query.image.tobytes() for query in sent] for sent in streams]
    assert images[0][:30] == images[1][:30]
    assert images[0][30:] != images[1][30:]
    assert [query.shared for query in streams[0]] == [True] * 30 + [False] * 18
    sent, _, _ = breed(Genetic(pool=30, population=10, generations=2), 10**4)
    assert not any(query.shared for query in sent)


def test_it_ends_at_the_first_confidence_that_is_enough_but_not_within_the_pool() -> None:
    client = Genetic(pool=200, generations=40, spread=0.5, enough=0.4)
    _, confidences, returned = breed(client, 10**5)
    assert returned is not None
    assert len(confidences) > 200
    assert max(confidences[:-1]) < 0.4 <= confidences[-1]
    np.testing.assert_allclose(confidence(point(returned)), confidences[-1], rtol=1e-3)
    _, in_pool, _ = breed(client, 10**5, f=lambda z: 0.9)
    assert len(in_pool) == 200


def test_a_refusal_returns_the_best_image_so_far() -> None:
    running = Genetic(pool=5, population=3).run(WORLD, np.random.default_rng(0))
    first = next(running)
    running.send(Answer(1, np.array([0.1, 0.9], np.float32)))
    with pytest.raises(StopIteration) as stop:
        running.send(Refusal())
    np.testing.assert_array_equal(stop.value.value, first.image)


CHANGES = {"pool": 20, "population": 5, "mutation": 0.5, "spread": 0.3, "bound": 0.5, "generations": 1}


@pytest.mark.parametrize("field", CHANGES)
def test_every_argument_has_an_effect(field: str) -> None:
    base = Genetic(pool=30, population=10)
    changed = base.model_copy(update={field: CHANGES[field]})
    streams = [[query.image.tobytes() for query in breed(client, 100)[0]] for client in (base, changed)]
    assert streams[0] != streams[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("space", "pixels"), ("size", 0), ("pool", 1), ("population", 1), ("population", 201), ("mutation", 1.1),
     ("spread", 0), ("bound", 0), ("generations", -1),
     ("shared", "all"), ("enough", 0), ("enough", 1)],
)  # fmt: skip
def test_invalid_arguments_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        Genetic.model_validate({field: value})
