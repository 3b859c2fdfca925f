"""Blacklight against a plain reference with the standard library's SHA-256, by hand, and on digits."""

from __future__ import annotations

import doctest
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.data import DataConfig, load_data
from mifsim.defense import (
    InvalidImage,
    Verdict,
    blacklight,
    blacklight_kernels,
    blacklight_x86_kernels,
    sha256_x86,
)
from mifsim.defense.blacklight import HASHES, BlacklightConfig, BlacklightRecorder, salt_of
from mifsim.defense.kinds import merged, read_config
from mifsim.errors import ConfigError
from mifsim.testing.detectors import blocked_at, record_streams
from tests.defense.published import blacklight_hashes, blacklight_salt, blacklight_shared

SHAPES = [(12, 13), (10, 9, 3), (28, 28), (9, 11, 1)]


def digest(image, window, stride, seed):
    """Return the keys of an image, as the detector stores them, without the zeros that stand for no hash."""
    detector = BlacklightConfig(window=window, stride=stride, salt=seed).detector()
    detector.check(image)
    stored = detector.state_dict()["memory"]["digests"]
    assert stored.shape == (1, HASHES)
    return [key for key in stored[0].tolist() if key]


def recorded(images, window=20, stride=1, seed=0, memories=(10_000,)):
    recorder = BlacklightRecorder(window, stride, seed, memories)
    rows = []
    for image in images:
        recorder.check(image)
        rows.append(recorder.row())
    return rows


def test_examples():
    result = doctest.testmod(blacklight)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("window", "stride"), [(20, 1), (50, 25), (1, 1), (27, 1), (28, 1), (59, 2), (60, 7), (64, 1), (90, 3)]
)
def test_the_digest_is_the_published_one(shape, window, stride):
    """Windows of one and of several blocks of SHA-256, and images with more and with fewer than 50 hashes."""
    rng = np.random.default_rng(window)
    salt = blacklight_salt(7, shape)
    for image in (rng.random(shape, dtype=np.float32), np.zeros(shape, np.float32)):
        if image.size < window + stride - 1:
            continue
        expected = blacklight_hashes(image, salt, window, stride)
        assert digest(image, window, stride, 7) == [int(text[:16], 16) for text in expected]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_quantisation_of_every_intensity(shape):
    """All intensities of 8 bits, and their neighbours in float32; one window contains all values."""
    rng = np.random.default_rng(1)
    salt = blacklight_salt(0, shape)
    exact = rng.integers(0, 256, shape).astype(np.float32) / np.float32(255)
    for image in (exact, np.nextafter(exact, np.float32(0)), np.nextafter(exact, np.float32(1))):
        submitted = np.clip(image, 0, 1)
        expected = blacklight_hashes(submitted, salt, image.size, 1)
        assert digest(submitted, image.size, 1, 0) == [int(text[:16], 16) for text in expected]
        assert len(blacklight_hashes(submitted, salt, 1, 1)) <= 6  # levels 0, 50, ... 250


def test_a_digest_by_hand():
    """Two pixels, one window: the bytes of two int16, the lower byte first."""
    image = np.array([[1.0, 0.2]], dtype=np.float32)
    first, second = salt_of(3, 1, 2, 1).astype(int)
    levels = [50 * round(((255 + first) % 255) / 50), 50 * round((51 + second) % 255 / 50)]
    text = hashlib.sha256(bytes([levels[0], 0, levels[1], 0])).hexdigest()
    assert digest(image, 2, 1, 3) == [int(text[::-1][:16], 16)]


@pytest.mark.skipif(not sha256_x86.supported(), reason="the processor has no instructions for SHA-256")
@pytest.mark.parametrize("shape", [(28, 28), (10, 9, 3)], ids=str)
def test_the_instructions_of_the_processor_give_the_same_digests(shape):
    """Windows that end in every place of a block, also those of an odd number of values, and the last windows."""
    rng = np.random.default_rng(0)
    salt = salt_of(1, *(*shape, 1)[:3])
    image = rng.random(int(np.prod(shape)), dtype=np.float32)
    for window in [*range(1, 70), len(image) - 1, len(image)]:
        for stride in (1, 2, 7):
            if len(image) < window + stride - 1:
                continue
            expected, found = np.empty((2, HASHES), np.uint64)
            blacklight_kernels.digest_of(image, salt, window, stride, expected)
            blacklight_x86_kernels.digest_of(image, salt, window, stride, found)
            assert found.tolist() == expected.tolist(), (window, stride)


@pytest.mark.parametrize("crowded", [False, True])
def test_shared_keys_are_counted_exactly(crowded):
    """Also with zeros, which stand for no hash, and with keys that no shift of the lookup table separates."""
    rng = np.random.default_rng(0)
    keys = rng.integers(1, 2**64, 60, dtype=np.uint64)
    keys[:4] = [2**63, 2**63 + 1, 2**63 + 2**10, 1023]
    if crowded:
        keys[4:6] = [2**50 + 2**40, 2**50]
    rows = [np.resize(np.append(rng.permutation(keys)[: rng.integers(0, 51)], np.uint64(0)), HASHES) for _ in range(60)]
    stored = np.zeros((60, HASHES), np.uint64)
    for row, kept in zip(rows, stored, strict=True):
        found = np.unique(row[row > 0])[::-1]
        kept[: len(found)] = found
    memories, shared = np.array([1, 7, 60, 99]), np.empty(4, np.int64)
    for digest in stored:
        blacklight_kernels.most_shared(digest, stored, 17, 60, memories, shared)
        ordered = [set(stored[(17 + i) % 60].tolist()) - {0} for i in range(60)]
        counts = [len(set(digest.tolist()) & other) for other in ordered]
        assert shared.tolist() == [max(counts[-memory:]) for memory in (1, 7, 60, 60)]


@settings(max_examples=40, deadline=None)
@given(
    order=st.lists(st.integers(0, 14), max_size=25),
    window=st.sampled_from([4, 20]),
    stride=st.sampled_from([1, 3]),
    memories=st.sets(st.integers(1, 30), min_size=1, max_size=3),
)
def test_shared_hashes_are_those_of_the_reference(pool, order, window, stride, memories):
    images = [pool[i] for i in order]
    salt = blacklight_salt(0, pool[0].shape)
    found = recorded(images, window, stride, 0, sorted(memories))
    for memory in memories:
        assert [row[f"shared_{memory}"] for row in found] == blacklight_shared(images, salt, window, stride, memory)


@settings(max_examples=40, deadline=None)
@given(
    order=st.lists(st.integers(0, 14), max_size=25),
    threshold=st.sampled_from([1, 10, 25, 49, 50]),
    limit=st.integers(1, 4),
    memory=st.sampled_from([1, 3, 100]),
)
def test_it_blocks_at_the_limit_th_match(pool, order, threshold, limit, memory):
    """Every query is remembered, also a flagged one."""
    images = [pool[i] for i in order]
    shared = blacklight_shared(images, blacklight_salt(2, pool[0].shape), 20, 1, memory)
    flagged = [number for number, count in enumerate(shared, 1) if count >= threshold]
    config = BlacklightConfig(threshold=threshold, limit=limit, memory=memory, salt=2)
    assert blocked_at(config, images) == (flagged[limit - 1] if len(flagged) >= limit else 0)
    assert config.replay(record_streams(config, [images])).blocked_at[0] == blocked_at(config, images)


def test_a_match_needs_half_of_the_hashes_with_one_single_query():
    """Halves of two earlier images share 25 hashes with neither, but more than that with both together."""
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 28, 28), dtype=np.float32)
    mixed = np.concatenate([one[:14], other[14:]])
    hashes = [set(blacklight_hashes(image, blacklight_salt(0, (28, 28)), 20, 1)) for image in (one, other, mixed)]
    with_one, with_other = (len(hashes[2] & hashes[i]) for i in (0, 1))
    assert recorded([one, other, mixed])[2]["shared_10000"] == max(with_one, with_other)
    assert with_one + with_other > max(with_one, with_other) > 0


@pytest.mark.parametrize("threshold", [25, 50])
def test_an_exact_repeat_matches_at_query_2(threshold):
    image = np.random.default_rng(0).random((28, 28))
    config = BlacklightConfig(threshold=threshold)
    assert blocked_at(config, [image, image]) == 2


def test_memory_forgets_the_oldest_query():
    images = np.random.default_rng(0).random((4, 28, 28), dtype=np.float32)
    stream = [*images, images[0]]
    assert blocked_at(BlacklightConfig(memory=4), stream) == 5
    assert blocked_at(BlacklightConfig(memory=3), stream) == 0


# The salt.


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_salt_is_that_of_its_description(shape):
    height, width, channels = (*shape, 1)[:3]
    assert salt_of(5, height, width, channels).tolist() == blacklight_salt(5, shape)


def test_the_salt_is_uniform_from_0_to_254():
    salt = salt_of(0, 200, 255, 1)
    counts = np.bincount(salt.astype(int), minlength=255)
    assert counts.size == 255
    assert abs(counts - 200).max() < 6 * np.sqrt(200)  # 200 expected of each
    assert not np.array_equal(salt[:100], salt_of(1, 200, 255, 1)[:100])
    assert not np.array_equal(salt[:100], salt_of(0, 255, 200, 1)[:100])


def test_on_digits_the_number_of_shared_hashes_depends_on_the_salt():
    """100 distinct digits: under some salts the published threshold of 25 blocks an honest session, under others not.

    The black border is the same in all digits, so its windows have the same hashes, and the salt decides how many of
    them are among the 50.
    """
    images = load_data(DataConfig(set="mnist-5k")).subset("users").images(np.arange(100))
    highest = [max(row["shared_10000"] for row in recorded(images, seed=seed)) for seed in range(8)]
    assert len(set(highest)) > 3
    assert min(highest) < 25 <= max(highest)
    for seed in (highest.index(min(highest)), highest.index(max(highest))):
        live = blocked_at(BlacklightConfig(salt=seed), list(images))
        assert bool(live) == (highest[seed] >= 25)


# Recordings and errors.


def test_recordings_with_other_memories_are_merged_and_others_are_not():
    config = BlacklightConfig()
    spec = config.recording_spec()
    both = merged(spec, BlacklightConfig(memory=50, threshold=3, limit=9).recording_spec())
    assert dict(both.options)["memories"] == (50, 10_000)
    for other in ({"window": 21}, {"stride": 2}, {"salt": 1}):
        assert merged(spec, BlacklightConfig(**other).recording_spec()) is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"salt": 1}, "salt = 1: must be 0, that of the recording"),
        ({"window": 50}, "window = 50: must be 20"),
        ({"memory": 7}, "shared_7: not in the recording, which contains shared_10000"),
    ],
)
def test_a_recording_of_other_hashes_is_refused(other, message):
    sessions = record_streams(BlacklightConfig(), [[np.zeros((8, 8))]])
    with pytest.raises(ValueError, match=message):
        BlacklightConfig(**other).replay(sessions)


def test_nearness_orders_sessions_that_are_not_blocked():
    one, other = np.random.default_rng(0).random((2, 28, 28), dtype=np.float32)
    near = np.concatenate([one[:10], other[10:]])
    config = BlacklightConfig(threshold=50, limit=2)
    found = config.replay(record_streams(config, [[], [one, other], [one, near], [one, one], [one, one, one]]))
    assert found.blocked_at.tolist() == [0, 0, 0, 0, 3]
    assert found.nearness.tolist() == sorted(found.nearness.tolist())
    assert found.nearness[2] > found.nearness[1]
    assert (found.nearness[0], found.nearness[3], found.nearness[4]) == (0, 0.5, 1)


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("threshold", 51, "a whole number from 1 to 50"),
        ("threshold", 0, "a whole number from 1 to 50"),
        ("threshold", 25.0, "a whole number from 1 to 50"),
        ("limit", True, "a whole number from 1 to 65536"),
        ("window", 0, "a whole number from 1 to 1024"),
        ("stride", "1", "a whole number from 1 to 1024"),
        ("memory", 0, "a whole number from 1 to 100000"),
        ("salt", -1, "a whole number from 0 to 2147483647"),
    ],
)
def test_wrong_fields(field, value, accepted):
    with pytest.raises(ConfigError, match=f"{field} = {value!r}: must be {accepted}"):
        BlacklightConfig(**{field: value})


def test_the_defaults_are_the_published_values():
    config = read_config({"kind": "blacklight"})
    assert (config.threshold, config.limit, config.window, config.stride) == (25, 1, 20, 1)


def test_an_image_without_a_window_is_refused_and_changes_nothing():
    detector = BlacklightConfig(window=20, stride=6).detector()
    before = detector.state_dict()
    with pytest.raises(InvalidImage, match="24 values; window = 20 and stride = 6 need at least 25"):
        detector.check(np.zeros((4, 6)))
    assert str(detector.state_dict()) == str(before)
    assert detector.check(np.zeros((5, 5))) is Verdict.SAFE


def test_a_state_of_other_digests_is_refused():
    detector = BlacklightConfig().detector()
    detector.check(np.zeros((8, 8)))
    state = detector.state_dict()
    for digests in (np.zeros((1, 49), np.uint64), np.zeros((1, HASHES)), [1, 2]):
        with pytest.raises(ValueError, match="of the state"):
            BlacklightConfig().restore({**state, "memory": {"digests": digests}})
    with pytest.raises(ValueError, match="2; accepted: at most 1"):
        BlacklightConfig(memory=1).restore({**state, "memory": {"digests": np.zeros((2, HASHES), np.uint64)}})
