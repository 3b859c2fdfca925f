"""Every registered client meets the contract, with its default arguments; some also with others."""

from __future__ import annotations

from typing import Any

import pytest

from mifsim.clients import Client, client_class, names

from .conformance import AttackerConformance, UserConformance

Case = tuple[str, dict[str, Any]]
OTHER_ATTACKERS: list[Case] = [
    ("mi-face", {"noise": 0.05}),
    ("mi-face", {"noise": 0.05, "noise_on": "copy"}),
    ("mi-face", {"process": "denoise-sharpen"}),
    ("mi-face", {"beta": 0, "gamma": 0.0, "step": 10.0}),
    ("mi-face", {"start": "mean", "steps": "unit"}),
    ("mi-face-numeric", {"space": "pixel", "differences": "central"}),
    ("mi-face-numeric", {"space": "block", "coordinates": 4}),
    ("mi-face-numeric", {"space": "pca", "coordinates": 3, "step": 50.0}),
    ("nes", {"space": "pixel", "pairs": 1}),
    ("nes", {"space": "pca", "sigma": 5.0, "score": "log-confidence"}),
    ("nes", {"space": "autoencoder", "coordinates": 4}),
    ("spsa", {"space": "block", "gain": 50.0}),
    ("spsa", {"space": "pca", "prior": 0.0}),
    ("brep", {"space": "autoencoder", "size": 8, "points": 4}),
    ("brep", {"space": "pixel", "radius": 5.0}),
    ("genetic", {"space": "pca", "pool": 12, "population": 5, "generations": 2}),
    ("inversion-network", {"images": 20, "steps": 2, "top": 3}),
    ("error-rate", {"images": 8, "draws": 3, "steps": 2}),
]
OTHER_USERS: list[Case] = [
    ("independent", {"length": {"mean": 20}}),
    ("one-class", {"length": {"min": 5, "max": 20}}),
    ("retries", {"probability": 0.5, "window": 3}),
    ("bursts", {"shots": 3, "shift_pixels": 3.0, "rotation_degrees": 30.0, "gain": 0.3, "offset": 0.2}),
    ("re-uploads", {"probability": 0.7, "scale": 0.2, "quality": 40}),
    ("video", {"scene": 4, "memory_frames": 1.0, "zoom": 0.5, "gain": 0.5, "noise": 0.3}),
    ("augmentation", {"crops": 30, "crop": 0.05, "qualities": [1, 100], "scales": []}),
    ("kiosk", {"subject": 2.0, "light": 1.0, "response": 0.5, "pattern": 0.5}),
    ("borders", {"style": "frame", "border": 0.45, "detail": 2.0}),
    ("mixture", {"of": [{"user": "video", "weight": 0.5}, {"user": "mixture", "turn": 3}], "turn": {"mean": 4}}),
    ("long-sessions", {"length": 60, "turn": 7}),
]


def described(case: Case) -> str:
    return " ".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


class TestAttackers(AttackerConformance):
    @pytest.fixture(params=[*((name, {}) for name in names("attacker")), *OTHER_ATTACKERS], ids=described)
    def client(self, request: pytest.FixtureRequest) -> Client:
        name, configs = request.param
        return client_class(name).model_validate(configs)


class TestUsers(UserConformance):
    @pytest.fixture(params=[*((name, {}) for name in names("user")), *OTHER_USERS], ids=described)
    def client(self, request: pytest.FixtureRequest) -> Client:
        name, configs = request.param
        return client_class(name).model_validate(configs)
