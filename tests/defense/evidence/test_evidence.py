"""The kind ``evidence`` against a direct implementation, and cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense import InvalidImage, Verdict
from mifsim.defense.evidence import kernels
from mifsim.defense.evidence.config import EvidenceConfig
from mifsim.defense.evidence.memory import Memory
from mifsim.errors import ConfigError
from mifsim.testing.streams import blocked_at, fitted, image_pool
from tests.defense.evidence.reference import ReferenceDetector, reference_features

NEVER = 1e6


def all_flags(shape, **values):
    limits = {f"{flag}_limit": NEVER for flag in ("neighbours", "average", "noisy", "smooth", "repeats", "queries")}
    return fitted(EvidenceConfig(**{**limits, **values}), shape)


@pytest.mark.parametrize("shape", [(12, 12), (9, 14), (10, 11, 3), (10, 10, 1)])
def test_features_equal_those_of_numpy_and_scipy(shape):
    config = all_flags(shape)
    arrays = config.arrays()
    for image in image_pool(shape, seed=3):
        found = np.empty(3, np.float32)
        channels = shape[2] if len(shape) == 3 else 1
        coordinates = kernels.features(
            image.reshape(-1), shape[1], channels, arrays["mean"], arrays["axes"], arrays["deviations"], found
        )
        expected = reference_features(image, arrays["mean"], arrays["axes"], arrays["deviations"])
        np.testing.assert_allclose(coordinates, expected[0], atol=1e-5)
        np.testing.assert_allclose(found, expected[1:], rtol=1e-5, atol=1e-6)


def test_the_noise_estimate_is_the_standard_deviation_of_white_noise():
    rng = np.random.default_rng(0)
    config = all_flags((64, 64))
    for deviation in (0.01, 0.05):
        noise = (0.5 + deviation * rng.standard_normal((64, 64))).astype(np.float32)
        found = np.empty(3, np.float32)
        arrays = config.arrays()
        kernels.features(noise.reshape(-1), 64, 1, arrays["mean"], arrays["axes"], arrays["deviations"], found)
        # The median of |N(0, 1)| is 0.6745, the mean 0.7979; the estimate is made for the mean of absolute responses.
        assert found[1] == pytest.approx(deviation * 0.6745 / 0.7979, rel=0.06)


def test_the_mean_image_is_perfectly_average_and_smooth():
    config = all_flags((8, 8))
    arrays = config.arrays()
    found = np.empty(3, np.float32)
    kernels.features(arrays["mean"], 8, 1, arrays["mean"], arrays["axes"], arrays["deviations"], found)
    assert found[0] == 0
    assert found[2] == 0


@settings(max_examples=60, deadline=None)
@given(
    order=st.lists(st.integers(0, 11), max_size=30),
    k=st.integers(1, 4),
    memory=st.integers(1, 12),
    radius=st.floats(0.1, 6.0),
    leak=st.floats(0.0, 1.0),
    limit=st.floats(0.5, 6.0),
)
def test_verdicts_equal_those_of_the_reference(order, k, memory, radius, leak, limit):
    config = fitted(
        EvidenceConfig(
            k=k, memory=memory, neighbours_radius=radius, neighbours_leak=leak, neighbours_limit=limit,
            average_radius=radius, average_leak=leak, average_limit=limit + 1, noisy_radius=radius / 30,
            noisy_leak=leak, noisy_limit=limit + 2, smooth_radius=radius / 8, smooth_leak=leak, smooth_limit=limit + 3,
            repeats_leak=leak, repeats_limit=limit + 1, queries_limit=24.5,
        ),
        (12, 12),
    )  # fmt: skip
    pool = image_pool((12, 12))
    detector, reference = config.detector(), ReferenceDetector(config)
    for place in order:
        verdict = detector.check(pool[place])
        expected = reference.check(pool[place])
        if reference.margin < 1e-4:  # where rounding decides, either is right
            return
        assert (verdict is Verdict.UNSAFE) == expected
        assert detector.counts == pytest.approx(reference.counts)
        if expected:
            return


@pytest.mark.parametrize(
    ("leak", "limit", "expected"),
    [
        (0.0, 4.0, 4),  # 1, 2, 3, 4
        (0.25, 4.0, 6),  # 0.75, 1.5, 2.25, 3, 3.75, 4.5
        (0.5, 2.0, 4),  # 0.5, 1, 1.5, 2
        (1.0, 1.0, 0),  # 0, 0, …
    ],
)
def test_a_count_rises_by_one_less_the_leak(leak, limit, expected):
    config = fitted(EvidenceConfig(noisy_radius=0.0, noisy_leak=leak, noisy_limit=limit), (12, 12))
    noisy = image_pool((12, 12))[0]
    assert blocked_at(config, [noisy] * 12) == expected


def test_a_count_falls_by_the_leak_at_queries_without_the_flag():
    config = fitted(EvidenceConfig(noisy_radius=0.01, noisy_leak=0.4, noisy_limit=100), (12, 12))
    pool = image_pool((12, 12))
    detector = config.detector()
    for image in (pool[0], pool[1], pool[8], pool[8], pool[8], pool[8]):  # two noisy ones, then a constant one
        detector.check(image)
        found = detector.counts["noisy"]
    assert found == 0.0
    detector.check(pool[2])
    assert detector.counts["noisy"] == pytest.approx(0.6)


def test_the_kth_neighbour_needs_k_earlier_queries():
    pool = image_pool((12, 12))
    for k in (1, 2, 3):
        config = fitted(EvidenceConfig(k=k, neighbours_radius=1e6, neighbours_leak=0.0, neighbours_limit=1), (12, 12))
        assert blocked_at(config, pool) == k + 1


def test_exact_repeats_raise_their_own_count_and_are_no_neighbours():
    pool = image_pool((12, 12))
    near = fitted(EvidenceConfig(k=1, neighbours_radius=1e-6, neighbours_leak=0.0, neighbours_limit=1), (12, 12))
    assert blocked_at(near, [pool[0]] * 5) == 0
    repeats = replace(near, neighbours_limit=0.0, repeats_leak=0.0, repeats_limit=2)
    assert blocked_at(repeats, [pool[0], pool[1], pool[0], pool[2], pool[1]]) == 5
    assert blocked_at(replace(repeats, memory=1), [pool[0], pool[1], pool[0], pool[2], pool[1]]) == 0


def test_a_quota_is_the_limit_of_queries():
    pool = image_pool((12, 12))
    config = fitted(EvidenceConfig(queries_limit=7), (12, 12))
    assert blocked_at(config, pool) == 7


def test_the_memory_forgets_the_oldest_and_grows_on_demand():
    memory = Memory(20, 2)
    for value in range(50):
        memory.columns[:, memory.place] = value
        memory.advance()
    assert memory.rows()[:, 0].tolist() == list(range(30, 50))
    copy = Memory(20, 2)
    copy.restore(memory.rows())
    assert copy.rows().tolist() == memory.rows().tolist()
    few = Memory(10_000, 30)
    assert few.columns.nbytes < 3000


def test_the_state_of_a_query_takes_at_most_160_bytes():
    config = all_flags((12, 12), memory=1000)
    detector = config.detector()
    rng = np.random.default_rng(1)
    for _ in range(1000):
        detector.check(rng.random((12, 12), dtype=np.float32))
    state = detector.state_dict()
    assert state["memory"].nbytes <= 120 * 1000
    assert detector._memory.columns.nbytes + detector._memory.squares.nbytes <= 160 * 1000


def test_images_of_another_shape_than_the_fit_are_refused():
    config = all_flags((12, 12))
    with pytest.raises(InvalidImage, match=r"got shape \(12, 13\); .* fitted to images of shape \(12, 12\)"):
        config.detector().check(np.zeros((12, 13), np.float32))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no flag is on"),
        ({"noisy_limit": -1.0}, "noisy_limit = -1.0: must be a number, at least 0"),
        ({"noisy_limit": float("nan")}, "noisy_limit = nan"),
        ({"noisy_limit": float("inf")}, "noisy_limit = inf: must be finite"),
        ({"noisy_limit": True}, "noisy_limit = True"),
        ({"noisy_limit": 1.0, "noisy_leak": 1.5}, "noisy_leak = 1.5: must be a number, from 0 to 1"),
        ({"noisy_limit": 1.0, "k": 11}, "k = 11: must be a whole number from 1 to 10"),
        ({"noisy_limit": 1.0, "memory": 0}, "memory = 0: must be a whole number from 1 to 16384"),
        ({"noisy_limit": 1.0, "fit": "abc"}, "fit = 'abc': must be the 16 hex digits"),
    ],
)
def test_invalid_values_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        EvidenceConfig(**values)


def test_a_configuration_without_a_fit_has_no_detector():
    with pytest.raises(ConfigError, match="fit is empty: the detector must be fitted"):
        EvidenceConfig(noisy_limit=1.0).detector()
    with pytest.raises(ConfigError, match=r"fit = '0123456789abcdef': its arrays are not loaded"):
        EvidenceConfig(noisy_limit=1.0, fit="0123456789abcdef").detector()


def test_flags_can_be_switched_off_until_one_is_left():
    config = EvidenceConfig(noisy_limit=1.0, smooth_limit=2.0)
    assert [flag.name for flag in config.without("noisy").enabled()] == ["smooth"]
    assert config.without("noisy").without("smooth") is None


def test_conservative_copies_relax_the_limits_first_and_keep_the_quota():
    config = EvidenceConfig(
        average_radius=2.0, average_limit=4.0, smooth_radius=0.1, smooth_limit=8.0, queries_limit=300.0
    )
    first, second, *others = config.conservative((1.1, 2.0))
    for copy, step in ((first, 1.1), (second, 2.0)):
        limits = {"average_limit": pytest.approx(4.0 * step), "smooth_limit": pytest.approx(8.0 * step)}
        assert {name: getattr(copy, name) for name in limits} == limits
        assert copy == replace(config, average_limit=copy.average_limit, smooth_limit=copy.smooth_limit)
    assert others[0].average_radius < 2.0  # then all thresholds are relaxed
    assert others[0].queries_limit > 300.0


def test_ablations_are_the_configuration_without_each_flag():
    config = EvidenceConfig(noisy_limit=1.0, smooth_limit=2.0, queries_limit=9.0)
    variants = config.ablations()
    assert {name: [flag.name for flag in variant.enabled()] for name, variant in variants.items()} == {
        "noisy": ["smooth", "queries"],
        "smooth": ["noisy", "queries"],
        "queries": ["noisy", "smooth"],
    }
    assert EvidenceConfig(noisy_limit=1.0).ablations() == {}
