"""Stateful Detection on pixels against a plain reference of the published loop, and its threshold by hand."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mifsim.defense import InvalidImage, View, osd_l2
from mifsim.defense.kinds import merged, read_config
from mifsim.defense.osd import OsdRecorder
from mifsim.defense.osd_l2 import OsdL2Config, threshold_of
from mifsim.defense.space import SearchSpace
from mifsim.errors import ConfigError
from mifsim.testing.detectors import blocked_at, judged, record_streams
from tests.defense.published import far_from, osd_detections, osd_means


def flat(*levels):
    """Return images of one pixel, whose distances are the differences of the levels."""
    return [np.full((1, 1), level) for level in levels]


def recorded(images, ks, memories):
    recorder = OsdRecorder(ks, memories)
    rows = []
    for image in images:
        recorder.check(image)
        rows.append(recorder.row())
    return rows


def test_examples():
    result = doctest.testmod(osd_l2)
    assert result.attempted > 0
    assert result.failed == 0


def test_by_hand():
    """Distances of 1/4 to 0, 1 and 1/2: 1/4, 3/4 and 1/4. Distances of 3/8 to these and 1/4: 3/8, 5/8, 1/8 and 1/8."""
    rows = recorded(flat(0.0, 1.0, 0.5, 0.25, 0.375), (1, 2, 4), (3, 10))
    found = {name: [float(row[name]) for row in rows] for name in rows[0]}
    nan = math.nan
    expected = {
        "mean_1_of_10": [nan, 1.0, 0.5, 0.25, 0.125],
        "mean_2_of_10": [nan, nan, 0.5, 0.25, 0.125],
        "mean_4_of_10": [nan, nan, nan, nan, (0.125 + 0.125 + 0.375 + 0.625) / 4],
        "mean_1_of_3": [nan, 1.0, 0.5, 0.25, 0.125],
        "mean_2_of_3": [nan, nan, 0.5, 0.25, 0.125],  # 0 is forgotten at the last query, but was not among the nearest
        "mean_4_of_3": [nan] * 5,
    }
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == pytest.approx(expected[name], abs=0, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(
    order=st.lists(st.integers(0, 14), max_size=40),
    ks=st.sets(st.integers(1, 8), min_size=1, max_size=3),
    memories=st.sets(st.integers(8, 40), min_size=1, max_size=3),
)
def test_means_are_those_of_the_reference(pool, order, ks, memories):
    images = [pool[i] for i in order]
    rows = recorded(images, sorted(ks), sorted(memories))
    for k in ks:
        for memory in memories:
            found = [float(row[f"mean_{k}_of_{memory}"]) for row in rows]
            assert found == pytest.approx(osd_means(images, k, memory), rel=1e-6, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(order=st.lists(st.integers(0, 14), max_size=40), k=st.integers(1, 8), data=st.data())
def test_with_a_limit_of_1_it_blocks_at_the_first_published_detection(pool, order, k, data):
    images = [pool[i] for i in order]
    means = osd_means(images, k)
    threshold = data.draw(st.floats(0.01, 8))
    assume(far_from(means, threshold, 1e-5))
    detected = osd_detections(images, k, threshold)
    config = OsdL2Config(threshold=threshold, k=k)
    assert blocked_at(config, images) == (detected[0] if detected else 0)


@settings(max_examples=50, deadline=None)
@given(order=st.lists(st.integers(0, 14), max_size=40), limit=st.integers(1, 6), data=st.data())
def test_replay_is_exact_at_a_recorded_value(pool, order, limit, data):
    """Even where the threshold is one of the values, or the next float64 above or below it."""
    images = [pool[i] for i in order]
    values = [row["mean_2_of_20"] for row in recorded(images, (2,), (20,))]
    assume(any(np.isfinite(values)))
    value = float(data.draw(st.sampled_from([value for value in values if np.isfinite(value)])))
    threshold = max(0.0, float(np.nextafter(value, data.draw(st.sampled_from([0.0, value, 9.0])))))
    config = OsdL2Config(threshold=threshold, limit=limit, k=2, memory=20)
    flagged = [number for number, found in enumerate(values, 1) if float(found) < threshold]
    at = flagged[limit - 1] if len(flagged) >= limit else 0
    assert blocked_at(config, images) == at
    assert config.replay(record_streams(config, [images])).blocked_at.tolist() == [at]


def test_the_bits_depend_neither_on_the_memory_nor_on_other_ks():
    images = list(np.random.default_rng(0).random((60, 9, 11), dtype=np.float32))
    together = recorded(images, (1, 3, 7), (8, 20, 500))
    for k in (1, 3, 7):
        for memory in (8, 20, 500):
            name = f"mean_{k}_of_{memory}"
            alone = recorded(images, (k,), (memory,))
            assert [row[name].tobytes() for row in alone] == [row[name].tobytes() for row in together]


def test_the_earliest_detection_is_at_query_51():
    image = np.random.default_rng(0).random((28, 28))
    assert blocked_at(read_config({"kind": "osd-l2"}), [image] * 60) == 51


def test_a_mean_equal_to_the_threshold_is_not_below_it():
    assert blocked_at(OsdL2Config(threshold=0.25, k=1), flat(0.0, 0.25)) == 0
    assert blocked_at(OsdL2Config(threshold=0.250001, k=1), flat(0.0, 0.25)) == 2
    assert blocked_at(OsdL2Config(threshold=0.0, k=1), flat(0.0, 0.0)) == 0


def test_a_larger_limit_counts_queries_and_keeps_the_memory():
    """The published code empties its memory instead, and needs k + 1 queries for the next detection."""
    images = flat(*[0.5] * 9)
    assert osd_detections(images, 2, 0.1) == [3, 6, 9]
    verdicts = judged(OsdL2Config(threshold=0.1, k=2, limit=3).detector(), images)
    assert verdicts.index("UNSAFE") + 1 == 5  # queries 3, 4 and 5 are flagged


# The published threshold.


def test_the_threshold_by_hand():
    """Five images on a line: mean distances to the image itself and its two nearest neighbours.

    The 0.1 percentile of five values lies 4 x 0.001 = 0.004 of the way from the smallest to the second smallest.
    """
    images = flat(*(level / 16 for level in (0, 1, 2, 4, 9)))
    means = [(0 + 1 + 2) / 48, (0 + 1 + 1) / 48, (0 + 1 + 2) / 48, (0 + 2 + 3) / 48, (0 + 5 + 7) / 48]
    low, high = sorted(means)[:2]
    assert threshold_of(images, k=3) == pytest.approx(low + 0.004 * (high - low), abs=1e-12)


@pytest.mark.parametrize(("number", "k"), [(1, 1), (7, 7), (1200, 50)])
def test_the_threshold_is_a_percentile_of_the_means(number, k):
    rows = np.random.default_rng(3).random((number, 5, 4), dtype=np.float32)
    flattened = rows.reshape(number, -1).astype(np.float64)
    distances = np.sort(np.sqrt(((flattened[:, None] - flattened[None]) ** 2).sum(axis=2)), axis=1)
    expected = np.percentile(distances[:, :k].mean(axis=1), 0.1)
    assert threshold_of(list(rows), k) == pytest.approx(expected, rel=1e-9)


def test_the_threshold_of_views():
    images = list(np.random.default_rng(3).random((20, 8, 8, 3), dtype=np.float32))
    view = View((4, 4), "grey")
    assert threshold_of(images, 5, view) == threshold_of([view.apply(image) for image in images], 5)


def test_at_the_threshold_one_training_image_in_a_thousand_is_flagged():
    """A training image that is compared with k - 1 others and itself: below the threshold are 2 of 2,000."""
    images = list(np.random.default_rng(0).random((2000, 3, 3), dtype=np.float32))
    threshold = threshold_of(images, 10)
    means = np.array([row["mean_10_of_2000"] for row in recorded([*images, *images], (10,), (2000,))[2000:]])
    assert (means < threshold).sum() == 2


def test_wrong_arguments_of_the_threshold():
    with pytest.raises(ConfigError, match="2 images: the threshold for k = 3 needs at least 3"):
        threshold_of(flat(0.0, 1.0), 3)
    with pytest.raises(ConfigError, match="k = 0: must be a whole number from 1 to 1000"):
        threshold_of(flat(0.0, 1.0), 0)
    with pytest.raises(InvalidImage, match="NaN"):
        threshold_of(flat(0.0, math.nan), 1)
    with pytest.raises(InvalidImage, match="shape"):
        threshold_of([np.zeros((2, 2)), np.zeros((2, 3))], 1)


# Recordings and errors.


def test_all_recordings_are_merged():
    one = OsdL2Config(k=3, memory=8).recording_spec()
    both = merged(one, OsdL2Config(k=5, memory=6).recording_spec())
    assert dict(both.options) == {"ks": (3, 5), "memories": (6, 8)}


def test_a_recording_without_the_values_is_refused():
    sessions = record_streams(OsdL2Config(k=3), [flat(0.0, 1.0)])
    with pytest.raises(ValueError, match="mean_4_of_10000: not in the recording, which contains mean_3_of_10000"):
        OsdL2Config(k=4).replay(sessions)


def test_nearness_orders_sessions_that_are_not_blocked():
    config = OsdL2Config(threshold=0.1, k=1, limit=2)
    streams = [flat(0.0), flat(0.0, 0.9), flat(0.0, 0.2), flat(0.0, 0.05), flat(0.0, 0.05, 0.05)]
    found = config.replay(record_streams(config, streams))
    assert found.blocked_at.tolist() == [0, 0, 0, 0, 3]
    assert found.nearness.tolist() == pytest.approx([0, 0.1 / 0.9 / 2, 0.25, 0.5, 1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold": -1.0}, r"threshold = -1\.0: must be a number, at least 0"),
        ({"threshold": math.nan}, "threshold = nan: must be a number"),
        ({"threshold": math.inf}, "threshold = inf: must be a number"),
        ({"threshold": "5"}, "threshold = '5': must be a number"),
        ({"threshold": True}, "threshold = True: must be a number"),
        ({"limit": 0}, "limit = 0: must be a whole number from 1 to 65536"),
        ({"k": 0}, "k = 0: must be a whole number from 1 to 1000"),
        ({"memory": 0}, "memory = 0: must be a whole number from 1 to 100000"),
        ({"memory": 49}, "memory = 49: must be at least k = 50"),
    ],
)
def test_wrong_fields(fields, message):
    with pytest.raises(ConfigError, match=message):
        OsdL2Config(**fields)


def test_a_search_over_a_memory_below_k_is_refused():
    with pytest.raises(ConfigError, match="memory = 20: must be at least k = 50"):
        SearchSpace.parse("osd-l2", {"k": [5, 50], "memory": [20, 100]})
    space = SearchSpace.parse("osd-l2", {"k": [5, 50], "memory": [50, 100]})
    assert {(config.k, config.memory) for config in space.corners()} == {(5, 50), (5, 100), (50, 50), (50, 100)}


def test_the_defaults_are_the_published_values():
    config = read_config({"kind": "osd-l2"})
    assert (config.threshold, config.limit, config.k) == (5.069, 1, 50)


def test_a_state_of_other_images_is_refused():
    detector = OsdL2Config(k=1).detector()
    detector.check(np.zeros((3, 3)))
    state = detector.state_dict()
    for images in (np.zeros((1, 8), np.float32), np.zeros((1, 9)), [0]):
        with pytest.raises(ValueError, match="of the state"):
            OsdL2Config(k=1).restore({**state, "memory": {"images": images}})
