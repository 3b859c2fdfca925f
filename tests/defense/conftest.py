"""Small test images: a few different ones, each with slightly changed copies, in grey and in colour."""

from __future__ import annotations

import numpy as np
import pytest

NOISE = (0.0, 1e-4, 1e-3, 1e-2, 0.1)


def make_pool(shape, bases=3, seed=0):
    """Return bases x len(NOISE) float32 images, of which those with the same base are similar."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(bases):
        base = rng.random(shape)
        images += [np.clip(base + rng.normal(0, sd, shape), 0, 1).astype(np.float32) for sd in NOISE]
    return images


@pytest.fixture(scope="session", params=[(12, 13), (13, 11, 3)], ids=["grey", "colour"])
def pool(request):
    return make_pool(request.param)
