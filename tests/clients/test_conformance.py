"""Conformance of all registered clients, with default and with other arguments; the effect of every field."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

from mifsim.clients import Client, client_class, names
from mifsim.clients.attackers import latent, surrogate
from mifsim.clients.attackers.networks import Autoencoder
from mifsim.testing import AttackerConformance, UserConformance


class Case(NamedTuple):
    """A client with some arguments, and values of fields that each change its behaviour.

    If `changes` is None, the values are the defaults of the arguments.
    """

    name: str
    arguments: Mapping[str, Any] = {}
    changes: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.arguments.items())])

    @property
    def client(self) -> Client:
        return client_class(self.name).model_validate(self.arguments)

    @property
    def all_changes(self) -> Mapping[str, Any]:
        if self.changes is not None:
            return self.changes
        fields = client_class(self.name).model_fields
        return {key: fields[key].default for key in self.arguments}


CHANGES: dict[str, Mapping[str, Any]] = {
    "mi-face": {"start": "mean", "steps": "unit", "step": 0.2, "alpha": 4, "gamma": 0.9, "noise": 0.1},
    "mi-face-numeric": {"space": "block", "coordinates": 4, "width": 0.2, "step": 0.7, "alpha": 1, "gamma": 0.9},
    "nes": {"space": "block", "coordinates": 4, "pairs": 3, "sigma": 0.2, "step": 0.7, "score": "log-confidence"},
    "spsa": {"space": "block", "coordinates": 4, "sigma": 0.2, "gain": 0.7, "stability": 3, "score": "log-confidence"},
    "brep": {"space": "pixel", "size": 4, "points": 5, "radius": 1.0, "growth": 3.0, "inside": -0.5, "step": 0.1,
             "bound": 0.5, "iterations": 1},
    "genetic": {"space": "pca"},
    "independent": {"length": 20},
    "one-class": {"length": 20},
    "retries": {"length": 20, "probability": 0.5},
    "bursts": {
        "length": 20, "shots": 2, "shift_pixels": 0, "rotation_degrees": 0, "gain": 0, "offset": 0, "noise": 0,
    },
    "re-uploads": {"length": 20, "probability": 0.5, "window": 2, "scale": 0.3, "quality": 40},
    "video": {
        "length": 20, "scene": 4, "memory_frames": 3.0, "shift_pixels": 0, "rotation_degrees": 0, "zoom": 0,
        "gain": 0, "noise": 0,
    },
    "augmentation": {"length": 20, "flip": False, "crops": 2, "crop": 0.5, "qualities": [40], "scales": [0.3]},
    "kiosk": {
        "length": 20, "shots": 3, "subject": 0.5, "shift_pixels": 0, "zoom": 0, "light": 0, "memory_shots": 10.0,
        "pattern": 0, "response": 0, "noise": 0,
    },
    "borders": {"length": 20, "style": "frame", "border": 0.2, "level": 0.5, "detail": 0},
    "long-sessions": {"length": 20, "of": [{"user": "kiosk"}], "turn": 1},
    "mixture": {"length": 20, "of": [{"user": "kiosk"}], "turn": 4},
}  # fmt: skip
"""Values of fields that each change the behaviour of a client with default arguments."""

OTHER_ATTACKERS: list[Case] = [
    Case("mi-face", {"noise": 0.05}),
    Case("mi-face", {"noise": 0.05, "noise_on": "copy"}),
    Case("mi-face", {"process": "denoise-sharpen"}),
    Case("mi-face", {"beta": 0, "gamma": 0.0, "step": 10.0}, {"beta": 2}),
    Case("mi-face", {"start": "mean", "steps": "unit"}),
    Case("mi-face-numeric", {"space": "pixel", "differences": "central"}),
    Case("mi-face-numeric", {"space": "block", "coordinates": 4}, {"beta": 1}),
    Case("mi-face-numeric", {"space": "pca", "coordinates": 3, "step": 50.0}),
    Case("nes", {"space": "pixel", "pairs": 1}),
    Case("nes", {"space": "pca", "sigma": 5.0, "score": "log-confidence"}, {"prior": 5.0}),
    Case("nes", {"space": "autoencoder", "coordinates": 4}, {"pairs": 1}),
    Case("spsa", {"space": "block", "gain": 50.0}),
    Case("spsa", {"space": "pca", "prior": 0.0}),
    Case("brep", {"space": "autoencoder", "size": 8, "points": 4}, {"points": 3}),
    Case("brep", {"space": "pixel", "radius": 5.0}),
    Case(
        "genetic",
        {"space": "pca", "pool": 12, "population": 5, "generations": 2},
        {
            "size": 4,
            "pool": 10,
            "population": 3,
            "mutation": 0.9,
            "spread": 3.0,
            "bound": 0.5,
            "generations": 1,
            "shared": "pool",
            "enough": 1e-9,
        },
    ),
    Case(
        "surrogate-search",
        {"size": 4, "pool": 80, "epochs": 5, "turns": 4, "queries": 20},  # the answers to 80 points have several labels
        {
            "space": "pca",
            "size": 3,
            "pool": 10,
            "balance": 0.0,
            "networks": 1,
            "epochs": 50,
            "turns": 1,
            "queries": 7,
            "sigma": 2.0,
            "bound": 0.5,
            "prior": 9.0,
        },
    ),
    Case(
        "label-surrogate",
        {"size": 4, "images": 12, "epochs": 5, "turns": 4},  # the answers to fewer images may have one label
        {
            "space": "pca",
            "size": 3,
            "images": 2,
            "balance": 0.0,
            "networks": 1,
            "epochs": 50,
            "turns": 1,
            "sigma": 2.0,
            "bound": 0.5,
            "prior": 9.0,
        },
    ),
    Case(
        "inversion-network",
        {"images": 20, "steps": 2, "top": 3},
        {"images": 7, "steps": 1, "top": 1, "floor": 1.0, "certainty": 0.5},
    ),
    Case(
        "error-rate",
        {"images": 8, "draws": 3, "steps": 2},
        {"images": 3, "draws": 2, "noise": 0.5, "prior": 2.0, "steps": 1, "certainty": 0.5, "top": 3, "floor": 0.5},
    ),
]
OTHER_USERS: list[Case] = [
    Case("independent", {"length": {"mean": 20}}),
    Case("one-class", {"length": {"min": 5, "max": 20}}),
    Case("retries", {"probability": 0.5, "window": 3}),
    Case("bursts", {"shots": 3, "shift_pixels": 3.0, "rotation_degrees": 30.0, "gain": 0.3, "offset": 0.2}),
    Case("re-uploads", {"probability": 0.7, "scale": 0.2, "quality": 40}),
    Case("video", {"scene": 4, "memory_frames": 1.0, "zoom": 0.5, "gain": 0.5, "noise": 0.3}),
    Case("augmentation", {"crops": 30, "crop": 0.05, "qualities": [1, 100], "scales": []}),
    Case("kiosk", {"subject": 2.0, "light": 1.0, "response": 0.5, "pattern": 0.5}),
    Case("borders", {"style": "frame", "border": 0.45, "detail": 2.0}),
    Case("mixture", {"of": [{"user": "video", "weight": 0.5}, {"user": "mixture", "turn": 3}], "turn": {"mean": 4}}),
    Case("long-sessions", {"length": 60, "turn": 7}),
]


QUICK: dict[str, Mapping[str, Any]] = {"inversion-network": {"steps": 20}, "error-rate": {"steps": 20}}
"""Arguments in place of defaults with which one test would train networks for many seconds."""


def cases(role: Literal["attacker", "user"], others: list[Case]) -> list[Case]:
    """Return a case with default arguments (but for `QUICK`) for each client of a role, and then the other cases."""
    return [*(Case(name, QUICK.get(name, {}), CHANGES.get(name, {})) for name in names(role)), *others]


ATTACKERS = cases("attacker", OTHER_ATTACKERS)
USERS = cases("user", OTHER_USERS)
LOG_FIELDS = {("log", field) for field in client_class("log").model_fields}
"""Fields that have no effect here: they locate the log, but a session takes its images from the pool."""
GENERATOR_FIELDS = {(name, "generator") for name in names("attacker") if "generator" in client_class(name).model_fields}
"""Fields that name a file, which test_generators.py writes."""


class LinearSurrogate:
    """A ridge regression in place of the networks, whose training takes a second each."""

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    @classmethod
    def fit(
        cls, images: np.ndarray, answers: np.ndarray, weights: np.ndarray, *, networks: int, epochs: int, seed: int
    ) -> LinearSurrogate:
        rows = images.reshape(len(images), -1).astype(np.float64)
        ridge = networks / epochs
        gram = (rows * weights[:, None]) @ rows.T + ridge * np.eye(len(rows))
        return cls(rows.T @ np.linalg.solve(gram, weights[:, None] * answers))

    def log_confidence(self, images: np.ndarray) -> np.ndarray:
        logits = images.reshape(len(images), -1) @ self.weights
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


@pytest.fixture(autouse=True, scope="module")
def _quick_networks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogate, "Surrogate", LinearSurrogate)
        patch.setattr(surrogate, "_trained", OrderedDict())
        patch.setattr(Autoencoder, "STEPS", 300)
        patch.setattr(latent, "_fitted", {})
        yield


class CaseFixtures:
    """Fixtures of a conformance suite that runs on each `case`; subclasses are parametrized with the cases."""

    @pytest.fixture
    def client(self, case: Case) -> Client:
        return case.client

    @pytest.fixture
    def changes(self, case: Case) -> Mapping[str, Any]:
        return case.all_changes


@pytest.mark.parametrize("case", ATTACKERS, ids=str)
class TestAttackers(CaseFixtures, AttackerConformance):
    pass


@pytest.mark.parametrize("case", USERS, ids=str)
class TestUsers(CaseFixtures, UserConformance):
    pass


def test_every_field_of_every_client_is_changed_in_a_case() -> None:
    fields = {(name, field) for name in names() for field in client_class(name).model_fields}
    changed = {(case.name, field) for case in [*ATTACKERS, *USERS] for field in case.all_changes}
    assert changed == fields - LOG_FIELDS - GENERATOR_FIELDS
