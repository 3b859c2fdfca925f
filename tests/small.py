"""A small study that runs in a second, on 40 real digits per class."""

from __future__ import annotations

from typing import Any

from mifsim.study import Study

SMALL: dict[str, Any] = {
    "name": "small",
    "seed": 5,
    "data": {"set": "mnist-5k", "images_per_class": 40},
    "victim": {"epochs": 2},
    "server": {"sessions_per_host": 8, "batch_size": 16},
    "leakage": {"baseline_images": 2},
    "filters": [
        {"name": "third", "t_ssim": 0.999, "t_hash": 0.001, "n_b": 10, "l_sp": 4},
        {"name": "strict", "t_ssim": 0.3, "t_hash": 0.1, "n_b": 5, "l_sp": 6, "ssim": "uniform"},
        {"none": True},
    ],
    "attacks": [{"attack": "mi-face", "noise": 0.002, "labels": [0, 3], "budget_queries": 25, "beta": 0, "gamma": 0.0}],
    "users": [
        {"user": "independent", "sessions": 5, "length": {"min": 3, "max": 9}},
        {"user": "bursts", "sessions": 4, "length": 8},
        {"user": "retries", "sessions": 4, "length": 8, "probability": 0.5},
    ],
}


def small_study(**changes: Any) -> Study:
    """Return the small study with changed sections; a mapping is merged into the section, another value replaces it."""
    table = dict(SMALL)
    for key, value in changes.items():
        table[key] = {**table.get(key, {}), **value} if isinstance(value, dict) else value
    return Study.parse(table)
