"""Surrogates: answers as distributions, weights of rare labels, training on a known rule, and the search."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

from mifsim.clients import Answer
from mifsim.clients.attackers import surrogate
from mifsim.clients.attackers.latent import LatentSpace
from mifsim.clients.attackers.surrogate import Surrogate, best_point, class_weights, distribution, trained_surrogate

SHAPE = (4, 4)
SPACE = LatentSpace(16, SHAPE, lambda z: z / 10 + 0.5)
CONTRASTED = LatentSpace(16, SHAPE, lambda z: z / 4 + 0.5)


class Distance:
    """A surrogate whose confidence in class 1 decreases with the distance to a point."""

    def __init__(self, optimum: np.ndarray) -> None:
        self.optimum = optimum

    def log_confidence(self, images: np.ndarray) -> np.ndarray:
        z = (images.reshape(len(images), -1).astype(np.float64) - 0.5) * 10
        logs = -((z - self.optimum) ** 2).sum(axis=1)
        return np.stack([np.zeros_like(logs), logs], axis=1)


def test_an_answer_becomes_a_distribution() -> None:
    known = np.array([0.5, 0.25, 0.25], np.float32)
    np.testing.assert_allclose(distribution(Answer(0, known), 3), known)
    np.testing.assert_allclose(distribution(Answer(1), 3), [0, 1, 0])
    withheld = np.array([0.6, 0.2, np.nan, np.nan], np.float32)
    np.testing.assert_allclose(distribution(Answer(0, withheld), 4), [0.6, 0.2, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(distribution(Answer(2, np.zeros(3, np.float32)), 3), [0, 0, 1])
    independent = np.array([0.9, 0.3], np.float32)  # sigmoids, which do not add up to 1
    np.testing.assert_allclose(distribution(Answer(0, independent), 2), [0.75, 0.25], rtol=1e-6)


def test_rare_labels_weigh_more() -> None:
    answers = np.eye(3, dtype=np.float32)[[0] * 98 + [1, 1]]
    weights = class_weights(answers, 0.9)
    expected = np.array([0.1 / (1 - 0.9**99), 0.1 / (1 - 0.9**3)])
    assert weights[-1] / weights[0] == pytest.approx(expected[1] / expected[0], rel=1e-5)
    assert weights.mean() == pytest.approx(1, rel=1e-6)
    np.testing.assert_array_equal(class_weights(answers, 0.0), 1)


def test_it_learns_a_rule_from_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class is whether the left half is brighter than the right one; the answers are its labels."""
    monkeypatch.setattr(surrogate, "_trained", OrderedDict())
    rng = np.random.default_rng(0)
    z = SPACE.sample(rng, 400)
    brighter = z.reshape(-1, 4, 4)[:, :, :2].sum(axis=(1, 2)) > z.reshape(-1, 4, 4)[:, :, 2:].sum(axis=(1, 2))
    answers = np.eye(2, dtype=np.float32)[brighter.astype(int)]
    trained = trained_surrogate(CONTRASTED, z[:300], answers[:300], balance=0.9, networks=2, epochs=150)
    logs = trained.log_confidence(CONTRASTED.decode(z[300:]))
    np.testing.assert_allclose(np.exp(logs).sum(axis=1).clip(None, 1), np.exp(logs).sum(axis=1), atol=1e-9)
    assert (logs.argmax(axis=1) == brighter[300:]).mean() > 0.85
    monkeypatch.setattr(Surrogate, "fit", lambda *given, **more: pytest.fail("trained again"))
    again = trained_surrogate(CONTRASTED, z[:300].copy(), answers[:300].copy(), balance=0.9, networks=2, epochs=150)
    assert again is trained


def test_the_search_finds_the_optimum_within_the_bound() -> None:
    optimum = np.linspace(-1, 1, 16)
    optimum[0] = 5.0
    model: Surrogate = Distance(optimum)  # type: ignore[assignment]
    found = best_point(
        SPACE, model, 1, np.zeros(16), prior=0.0, sigma=0.5, bound=2.0, turns=200, rng=np.random.default_rng(0)
    )
    assert found[0] == pytest.approx(2.0, abs=0.05)
    np.testing.assert_allclose(found[1:], optimum[1:], atol=0.1)


def test_without_turns_or_improvement_the_start_is_returned() -> None:
    model: Surrogate = Distance(np.zeros(16))  # type: ignore[assignment]
    for start, turns in ((np.ones(16), 0), (np.zeros(16), 5)):
        found = best_point(
            SPACE, model, 1, start, prior=0.0, sigma=0.5, bound=2.0, turns=turns, rng=np.random.default_rng(0)
        )
        np.testing.assert_array_equal(found, start)


def test_the_prior_keeps_the_search_near_probable_images() -> None:
    """The squared distance to 1, plus `prior` / 2 of that to 0, is least at 1 / (1 + prior / 2)."""
    model: Surrogate = Distance(np.ones(16))  # type: ignore[assignment]
    found = best_point(
        SPACE, model, 1, np.zeros(16), prior=2.0, sigma=0.5, bound=2.0, turns=200, rng=np.random.default_rng(0)
    )
    np.testing.assert_allclose(found, 0.5, atol=0.05)
