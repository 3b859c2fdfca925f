"""PRADA against a plain reference of the published loop, and cases by hand."""

from __future__ import annotations

import doctest
import math
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mifsim.defense import InvalidImage, ModelAnswer, Verdict, View, prada
from mifsim.defense.kinds import read_config
from mifsim.defense.prada import PradaConfig, PradaRecorder
from mifsim.errors import ConfigError
from mifsim.testing.detectors import record_streams
from tests.defense.published import prada_flags, prada_tests


def answer(label):
    return ModelAnswer(label, np.ones(3, np.float32))


def run(detector, images, labels):
    """Return the number of the first refused query, from 1; 0 if there is none."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True), 1):
        if detector.check(image) is Verdict.UNSAFE:
            return number
        detector.observe(answer(label))
    return 0


def recorded(images, labels):
    recorder = PradaRecorder()
    rows = []
    for image, label in zip(images, labels, strict=True):
        recorder.check(image)
        recorder.observe(answer(label))
        rows.append(recorder.row())
    return rows


def stream(seed, number, classes=3, shape=(6, 5)):
    """Return images of which some repeat earlier ones nearly, and their labels."""
    rng = np.random.default_rng(seed)
    images = [rng.random(shape, dtype=np.float32) for _ in range(4)]
    while len(images) < number:
        base = images[rng.integers(len(images))]
        fresh = rng.random(shape, dtype=np.float32)
        sd = rng.choice([0.0, 0.01, 0.1])
        images.append(fresh if rng.random() < 0.5 else np.clip(base + np.float32(sd) * fresh, 0, 1))
    return images[:number], rng.integers(0, classes, number).tolist()


def test_examples():
    result = doctest.testmod(prada)
    assert result.attempted > 0
    assert result.failed == 0


def test_growing_sets_by_hand():
    """Images of one pixel, one class. The set's distances are 0, then those above the threshold T.

    Query 2 repeats query 1: its distance of 0 is not above T = 0, and it is not added. Query 3 is 0.5 from 0, so
    T = mean(0, 0.5) - sd(0, 0.5) = 0.25 - 0.25 = 0. Query 4 is 0.5 from 0.5:
    T = mean(0, 0.5, 0.5) - sd = 1/3 - sqrt(1/18) = 0.0976. Query 5 is 0.0625 from 0.5, below T, and is not added:
    query 6 is 0.09375 from 0.5, not 0.03125 from query 5, and not added. Query 7 is 0.125 from 0.5 and above T.
    """
    images = [np.full((1, 1), level) for level in (0.0, 0.0, 0.5, 1.0, 0.5625, 0.59375, 0.375, 0.4375)]
    found = [float(row["distance"]) for row in recorded(images, [7] * len(images))]
    assert found == pytest.approx([math.nan, 0, 0.5, 0.5, 0.0625, 0.09375, 0.125, 0.0625], abs=0, nan_ok=True)
    separate = [float(row["distance"]) for row in recorded(images, range(len(images)))]
    assert all(math.isnan(distance) for distance in separate)  # each query opens the set of its class


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("classes", [1, 3, 12])
def test_w_is_that_of_the_published_loop(seed, classes):
    images, labels = stream(seed, 260, classes)
    rows = recorded(images, labels)
    tests = prada_tests(images, labels)
    assert any(tests)
    for number, (row, test) in enumerate(zip(rows, tests, strict=True), 1):
        if test is not None:
            assert row["w"] == pytest.approx(test[0], abs=1e-5)  # distances are float32 here
            assert row["tested"] == len(test[1])
        else:
            assert row["tested"] <= 100
        assert math.isnan(row["w"]) == (row["tested"] == 0)
        assert row["tested"] == 0 or number % 10 == 1


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 50),
    number=st.integers(0, 200),
    classes=st.integers(1, 4),
    limit=st.integers(1, 4),
    delta=st.floats(0.7, 1.0),
)
def test_it_refuses_the_query_after_the_limit_th_flag(seed, number, classes, limit, delta):
    images, labels = stream(seed, number, classes)
    tests = prada_tests(images, labels)
    assume(all(test is None or abs(test[0] - delta) > 1e-5 for test in tests))
    flags = prada_flags(tests, delta)
    expected = flags[limit - 1] + 1 if len(flags) >= limit and flags[limit - 1] < number else 0
    assert run(PradaConfig(delta=delta, limit=limit).detector(), images, labels) == expected


def sessions_of(images, labels):
    """Record a session whose labels are given."""
    config = PradaConfig()
    sessions = record_streams(config, [images])
    rows = recorded(images, labels)
    columns = {name: np.array([row[name] for row in rows], dtype=sessions.columns[name].dtype) for name in rows[0]}
    return type(sessions)(sessions.offsets, sessions.valid, columns, sessions.options)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 50),
    number=st.integers(30, 150),
    limit=st.integers(1, 4),
    min_distances=st.integers(3, 120),
    data=st.data(),
)
def test_replay_is_exact_at_a_recorded_w(seed, number, limit, min_distances, data):
    images, labels = stream(seed, number, 2)
    sessions = sessions_of(images, labels)
    values = [float(w) for w in sessions.columns["w"] if np.isfinite(w)]
    assume(values)
    value = data.draw(st.sampled_from(values))
    delta = min(1.0, float(np.nextafter(value, data.draw(st.sampled_from([0.0, value, 2.0])))))
    config = PradaConfig(delta=delta, limit=limit, min_distances=min_distances)
    assert config.replay(sessions).blocked_at.tolist() == [run(config.detector(), images, labels)]


def one_class(distances):
    """Return images of one pixel whose distances to the nearest of the set are these, at most 1."""
    return [np.zeros((1, 1)), *(np.full((1, 1), distance) for distance in distances)]


def test_the_earliest_flag_is_at_query_111():
    """110 distances; at query 101 there are 100, and more than 100 are needed. Query 112 is refused."""
    images = one_class(np.random.default_rng(0).random(140) ** 9)
    labels = [0] * len(images)
    detector = read_config({"kind": "prada"}).detector()
    for number, image in enumerate(images, 1):
        verdict = detector.check(image)
        assert verdict is (Verdict.SAFE if number < 112 else Verdict.UNSAFE)
        assert detector.blocked == (number >= 112)
        if verdict is Verdict.SAFE:
            detector.observe(answer(0))
        assert detector.count == (number >= 111)
    assert prada_flags(prada_tests(images, labels), 0.9)[0] == 111


def test_two_classes_delay_it():
    """Two queries open sets: at query 111 there are 109 distances; a class with fewer than 10 does not count."""
    images = one_class(np.random.default_rng(0).random(140) ** 9)
    labels = [0] * 131 + [1] * 10
    rows = recorded(images, labels)
    assert rows[130]["tested"] > 100
    assert rows[140]["tested"] == rows[130]["tested"]  # class 1 has 9 distances
    assert recorded(images, [0, 1] * 70 + [0])[110]["tested"] <= 109


def test_a_repeated_image_is_never_flagged():
    """Its distances are all 0: none is within three standard deviations, which are 0, of the mean."""
    images, labels = [np.full((2, 2), 0.5)] * 300, [0] * 300
    assert prada_flags(prada_tests(images, labels), 1.0) == []
    assert run(PradaConfig(delta=1.0).detector(), images, labels) == 0
    assert {row["tested"] for row in recorded(images, labels)} == {0}


def test_the_invalid_query_after_a_flag_is_refused_as_invalid():
    """Only the next valid query is UNSAFE, live and in replay: a server may refuse an invalid image before it."""
    images = one_class(np.random.default_rng(0).random(110) ** 9)
    bad = np.full((1, 1), np.nan)
    config = PradaConfig()
    detector = config.detector()
    assert run(detector, images, [0] * 111) == 0
    with pytest.raises(InvalidImage):
        detector.check(bad)
    assert not detector.blocked
    assert detector.check(images[0]) is Verdict.UNSAFE
    assert detector.check(bad) is Verdict.UNSAFE
    streams = [images, [*images, bad], [*images, bad, images[0]], [*images, images[0]]]
    one_label = record_streams(config, streams)
    assert one_label.columns["tested"][110] > 100
    assert config.replay(one_label).blocked_at.tolist() == [0, 0, 113, 112]


def test_the_label_decides():
    """The same images with other predicted classes: the detector uses the model's own label."""
    images = one_class(np.random.default_rng(0).random(140) ** 9)
    assert run(PradaConfig().detector(), images, [0] * 141) == 112
    assert run(PradaConfig().detector(), images, list(range(141))) == 0


def test_a_state_between_image_and_answer_continues():
    images, labels = stream(1, 130, 2)
    config = PradaConfig(delta=1.0, min_distances=30, view=View((5, 5), "as-is"))
    detector, other = config.detector(), config.detector()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        assert detector.check(image) is other.check(image)
        if detector.blocked:
            break
        if number % 7 == 0:
            detector = config.restore(pickle.loads(pickle.dumps(detector.state_dict())))
        for one in (detector, other):
            one.observe(answer(label))
        assert detector.count == other.count
    assert detector.blocked


def test_a_state_of_other_images_is_refused():
    detector = PradaConfig().detector()
    detector.check(np.zeros((3, 3)))
    detector.observe(answer(0))
    state = detector.state_dict()
    memory = state["memory"]
    for change in ({"images": [np.zeros((1, 8), np.float32)]}, {"set_distances": [[]]}, {"extra": 1}):
        with pytest.raises(ValueError, match="of the state"):
            PradaConfig().restore({**state, "memory": {**memory, **change}})
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        PradaConfig().restore({**state, "memory": {**memory, "images": []}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"delta": 1.1}, r"delta = 1\.1: must be a number, from 0 to 1"),
        ({"delta": math.nan}, "delta = nan: must be a number"),
        ({"limit": 0}, "limit = 0: must be a whole number from 1 to 65536"),
        ({"min_distances": 2}, "min_distances = 2: must be a whole number from 3 to 5000"),
    ],
)
def test_wrong_fields(fields, message):
    with pytest.raises(ConfigError, match=message):
        PradaConfig(**fields)


def test_the_defaults_are_those_of_the_published_code():
    config = read_config({"kind": "prada"})
    assert (config.delta, config.limit, config.min_distances) == (0.9, 1, 101)


def test_nearness_orders_sessions_that_are_not_blocked():
    rng = np.random.default_rng(0)
    one = [*one_class(rng.random(110) ** 9)]
    other = [*one_class(rng.normal(0.5, 0.1, 110))]
    config = PradaConfig(delta=0.6, limit=2)
    found = config.replay(record_streams(config, [other[:5], other, one, [*one, *one_class(rng.random(30) ** 9)]]))
    assert (found.blocked_at[:3] == 0).all()
    assert found.nearness.tolist() == sorted(found.nearness.tolist())
    assert found.nearness[0] == 0 < found.nearness[1] < found.nearness[2]
