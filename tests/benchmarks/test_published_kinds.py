"""The verdict of published detectors with 1,000 remembered queries, against plain versions with common packages."""

from __future__ import annotations

import hashlib
from collections import deque

import numpy as np
import pytest
from scipy import stats

from mifsim.data import DataConfig, load_data
from mifsim.defense import blacklight_kernels, blacklight_x86_kernels, sha256_x86
from mifsim.defense.blacklight import HASHES, BlacklightConfig, salt_of
from mifsim.defense.osd_l2 import OsdL2Config
from mifsim.defense.shapiro import shapiro_w
from tests.benchmarks.test_defense import UNREACHED_LIMIT, submit_in_turn

MEMORY = 1000
IMAGES = np.random.default_rng(0).random((MEMORY + 200, 28, 28), dtype=np.float32)
LIMIT = 65536


class PlainBlacklight:
    """Blacklight with hashlib, and sets of hexadecimal texts."""

    def __init__(self):
        self.salt = salt_of(0, 28, 28, 1)
        self.stored = deque(maxlen=MEMORY)

    def check(self, image):
        salted = (image.reshape(-1) * np.float32(255) + self.salt) % np.float32(255)
        values = (np.around(salted / np.float32(50)) * 50).astype(np.int16)
        digests = {hashlib.sha256(values[i : i + 20]).hexdigest()[::-1] for i in range(len(values) - 19)}
        hashes = set(sorted(digests, reverse=True)[:HASHES])
        most = max((len(hashes & other) for other in self.stored), default=0)
        self.stored.append(hashes)
        return most


class PlainOsd:
    """Stateful Detection with numpy, over a ring of images."""

    def __init__(self):
        self.rows, self.place = np.zeros((MEMORY, 784), np.float32), 0

    def check(self, image):
        row = image.reshape(-1)
        mean = np.partition(np.linalg.norm(self.rows - row, axis=1), 49)[:50].mean()
        self.rows[self.place] = row
        self.place = (self.place + 1) % MEMORY
        return mean


def test_blacklight(ratio, measured):
    detector = BlacklightConfig(threshold=HASHES, limit=LIMIT, memory=MEMORY).detector()
    detector.limit = UNREACHED_LIMIT
    ratio(
        "blacklight, 28x28, against hashlib and sets",
        submit_in_turn(PlainBlacklight(), IMAGES),
        submit_in_turn(detector, IMAGES),
    )
    measured("blacklight, a remembered query", detector.state_dict()["memory"]["digests"].nbytes / MEMORY, 400, "bytes")


@pytest.mark.skipif(not sha256_x86.supported(), reason="the processor has no instructions for SHA-256")
def test_digest(ratio):
    digit = load_data(DataConfig(set="mnist-5k")).subset("users").images(np.arange(1))[0].reshape(-1)
    found = np.zeros((2, HASHES), np.uint64)

    def portable():
        blacklight_kernels.digest_of(digit, salt_of(0, 28, 28, 1), 20, 1, found[0])

    def with_instructions():
        blacklight_x86_kernels.digest_of(digit, salt_of(0, 28, 28, 1), 20, 1, found[1])

    ratio("digest of blacklight, 28x28, with the processor's SHA-256, against vectors", portable, with_instructions)
    assert found[0].tolist() == found[1].tolist()


def test_osd_l2(ratio):
    detector = OsdL2Config(threshold=0.0, limit=LIMIT, memory=MEMORY).detector()
    ratio("osd-l2, 28x28, against numpy", submit_in_turn(PlainOsd(), IMAGES), submit_in_turn(detector, IMAGES))


def test_shapiro(ratio):
    values = np.random.default_rng(0).exponential(size=300)
    assert abs(shapiro_w(values) - stats.shapiro(values).statistic) < 1e-8
    ratio("W of 300 distances, against scipy", lambda: stats.shapiro(values), lambda: shapiro_w(values))
