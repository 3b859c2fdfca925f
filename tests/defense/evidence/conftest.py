"""A classifier that tests of the flag ``naturalness`` share: trained on small digits of scikit-learn."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mifsim.defense.evidence.config import EvidenceConfig
from mifsim.defense.fit import add_fit

LEARNED = EvidenceConfig(naturalness=True, naturalness_radius=0.0, naturalness_leak=0.0, naturalness_limit=3.0)


@functools.cache
def digits():
    """Return 400 small digits to train with, and 400 others."""
    images = (load_digits().images / 16).astype(np.float32)[:800]
    return images[::2], images[1::2]


@functools.cache
def trained():
    """Return the configuration fitted to the digits, and its fit."""
    images, _ = digits()
    config = LEARNED.fit_to(images, np.arange(len(images), dtype=np.uint64), {"data": "digits"})
    return config, config.fitted()


@pytest.fixture
def config():
    config, fit = trained()
    add_fit(fit)
    return config
