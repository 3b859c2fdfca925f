"""Time and memory of a query of the kind ``evidence`` with a full memory."""

from __future__ import annotations

import time

import numpy as np
import pytest

from mifsim.defense.evidence.config import EvidenceConfig
from mifsim.defense.evidence.flags import FLAGS, LEARNED
from mifsim.testing.streams import fitted
from tests.defense.evidence.reference import reference_features

SHAPE = (28, 28)
MICROSECONDS = 15
TREES_MICROSECONDS = 8
"""Additional time of the scalars and the trees of `naturalness`."""
NEVER = 1e6


@pytest.mark.parametrize("naturalness", [False, True], ids=["plain", "naturalness"])
@pytest.mark.parametrize("memory", [200, 1000])
def test_time_of_a_query(ratio, memory, naturalness):
    limits = {f"{flag}_limit": NEVER for flag in FLAGS if naturalness or flag != LEARNED}
    config = fitted(EvidenceConfig(memory=memory, neighbours_radius=1.0, naturalness=naturalness, **limits), SHAPE)
    name = f"query of evidence{' with naturalness' * naturalness}, 28x28, memory {memory}"
    target = MICROSECONDS + TREES_MICROSECONDS * naturalness
    rng = np.random.default_rng(0)
    images = [rng.random(SHAPE, dtype=np.float32) for _ in range(2 * memory)]
    detector, arrays = config.detector(), config.arrays()
    for image in images:
        detector.check(image)
    position = [0]

    def check():
        position[0] += 1
        image = images[position[0] % len(images)].copy()
        image[0, 0] = position[0] % 1000 / 1000  # not an exact repeat
        detector.check(image)

    def features_alone():
        reference_features(images[0], arrays["mean"], arrays["axes"], arrays["deviations"])

    ratio(f"{name}, against its features in numpy and scipy", features_alone, check)
    ratio(f"{name}, against {target} us", lambda: _wait(target * 1e-6), check, target=1)


def _wait(seconds):
    """Wait actively: `time.sleep` is much longer than microseconds."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_memory_of_a_client(measured):
    config = fitted(EvidenceConfig(memory=1000, noisy_limit=NEVER), SHAPE)
    detector = config.detector()
    rng = np.random.default_rng(0)
    for _ in range(1000):
        detector.check(rng.random(SHAPE, dtype=np.float32))
    memory = detector._memory
    measured(
        "bytes a query of evidence, memory 1000", (memory.columns.nbytes + memory.squares.nbytes) / 1000, at_most=160
    )
