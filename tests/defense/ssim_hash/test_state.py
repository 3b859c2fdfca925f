"""A session that moves to another process continues exactly as before."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense import FilterConfig, QueryFilter
from tests.defense.ssim_hash.test_filter import configs, streams

CONFIG = FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=3, l_sp=5)


def moved_session(detector):
    return QueryFilter.from_state(detector.config, pickle.loads(pickle.dumps(detector.state_dict())))


@given(config=configs, stream=streams, moves=st.sets(st.integers(0, 24)))
@settings(max_examples=100, deadline=None)
def test_moving_a_session_at_any_time_changes_no_verdict(pool, config, stream, moves):
    unmoved, moving = QueryFilter(config), QueryFilter(config)
    for n, index in enumerate(stream):
        if n in moves:
            moving = moved_session(moving)
        assert moving.check(pool[index]) is unmoved.check(pool[index])
        assert (moving.count, moving.blocked) == (unmoved.count, unmoved.blocked)
    actual, expected = moved_session(moving).state_dict(), unmoved.state_dict()
    assert actual.keys() == expected.keys()
    assert actual["images"].dtype == expected["images"].dtype == np.float32
    assert all(np.array_equal(actual[key], expected[key]) for key in actual)
    # The values stored with the pixels are not in the state; compare them through the similarities that they give.
    kept, recomputed = (
        detector._buffer.push(*detector._buffer.admit(pool[0])) for detector in (unmoved, moved_session(moving))
    )
    assert kept[config.ssim].tobytes() == recomputed[config.ssim].tobytes()


def test_a_state_is_plain_data_and_a_copy(pool):
    detector = QueryFilter(FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=3, l_sp=100))
    for image in pool[:5]:
        detector.check(image)
    state = detector.state_dict()
    assert state["version"] == 1
    assert (state["count"], state["shape"]) == (detector.count, pool[0].shape)
    assert np.array_equal(state["images"], np.stack(pool[2:5]))
    state["images"][:] = 0
    assert np.array_equal(detector.state_dict()["images"], np.stack(pool[2:5]))


def test_a_session_without_an_image_is_restored():
    state = QueryFilter(CONFIG).state_dict()
    assert (state["count"], state["shape"], state["images"].shape) == (0, (), (0,))
    fresh = QueryFilter.from_state(CONFIG, state)
    assert fresh.check(np.zeros((9, 9))).name == "SAFE"


def images(n=2, shape=(9, 9), dtype=np.float32):
    return np.full((n, *shape), 0.5, dtype=dtype)


def test_additions_are_part_of_the_state(pool):
    config = FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=3, l_sp=100, leak=0.25, repeats=9)
    detector = QueryFilter(config)
    for image in (pool[0], pool[1], pool[0]):
        detector.check(image)
    state = detector.state_dict()
    assert (state["version"], state["count"], state["repeats"]) == (1, 1.5, 1)
    assert moved_session(detector).repeat_count == 1
    assert moved_session(detector).state_dict()["repeats"] == 1
    repeated = QueryFilter(replace(config, repeats=1))
    repeated.check(pool[0])
    assert repeated.check(pool[0]).name == "UNSAFE"
    assert moved_session(repeated).blocked
    assert moved_session(repeated).check(pool[5]).name == "UNSAFE"


@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        ({"leak": 0.1}, {"count": 5.5}, r"count = 5\.5: must be a number from 0 to l_sp = 5"),
        ({"leak": 0.1}, {"count": -0.5}, r"count = -0\.5"),
        ({"leak": 0.1}, {"count": float("nan")}, "count = nan"),
        ({"leak": 0.1}, {"count": True}, "count = True"),
        ({"leak": 0.1}, {"count": "1"}, "count = '1'"),
        ({"leak": 0.1}, {"repeats": 1}, "keys of the state: "),
        ({"repeats": 3}, {}, "keys of the state: .*; expected count, images, repeats, shape, version"),
        ({"repeats": 3}, {"repeats": 4}, "repeats = 4: must be a whole number from 0 to 3"),
        ({"repeats": 3}, {"repeats": -1}, "repeats = -1"),
        ({"repeats": 3}, {"repeats": 1.0}, r"repeats = 1\.0"),
        ({"repeats": 3}, {"repeats": 1, "count": 1.5}, r"count = 1\.5: must be a whole number"),
        ({}, {"repeats": 0}, "keys of the state: "),
    ],
)
def test_a_state_of_other_additions_is_refused(fields, change, message):
    state = {"version": 1, "count": 1, "shape": (9, 9), "images": images()} | change
    with pytest.raises(ValueError, match=message):
        QueryFilter.from_state(replace(CONFIG, **fields), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"version = 2: not supported \(accepted: 1\)"),
        ({"count": -1}, "count = -1: .* from 0 to l_sp = 5"),
        ({"count": 6}, "count = 6"),
        ({"count": True}, "count = True"),
        ({"count": 1.0}, r"count = 1\.0"),
        ({"shape": (9, 8)}, "shape = "),
        ({"shape": ()}, "shape = "),
        ({"images": images(4)}, "images: 4 images; accepted: at most n_b = 3"),
        ({"images": images(dtype=np.float64)}, "float32"),
        ({"images": images().tolist()}, "float32"),
        ({"images": images() * 3}, r"images\[0\]: got values from 1\.5"),
        ({"images": images() * np.nan}, r"images\[0\]: got 81 NaN"),
        ({"images": images(0)}, "shape = "),
        ({"images": images(shape=(9, 9, 2)), "shape": (9, 9, 2)}, r"images\[0\]: got shape"),
        ({"extra": 1}, "keys of the state: "),
    ],
)
def test_an_invalid_state_is_refused(change, message):
    state = {"version": 1, "count": 1, "shape": (9, 9), "images": images()}
    assert QueryFilter.from_state(CONFIG, state).count == 1
    with pytest.raises(ValueError, match=message):
        QueryFilter.from_state(CONFIG, state | change)


def test_an_incomplete_state_is_refused():
    with pytest.raises(ValueError, match="keys of the state: "):
        QueryFilter.from_state(CONFIG, {"version": 1, "count": 1})


def test_a_state_with_images_too_small_for_the_window_is_refused():
    state = {"version": 1, "count": 0, "shape": (9, 9), "images": images()}
    windowed = FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=3, l_sp=5, ssim="gaussian")
    with pytest.raises(ValueError, match="at least 11 x 11"):
        QueryFilter.from_state(windowed, state)


def size_of(thing, seen=None):
    """Return the size in bytes of an object and all that it refers to, each counted once, arrays with their data."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, type | FilterConfig):
        return 0  # all sessions share one configuration
    seen.add(id(thing))
    total = sys.getsizeof(thing)
    if isinstance(thing, np.ndarray):
        base = thing
        while isinstance(base.base, np.ndarray):
            base = base.base
        return total if base is thing else total + size_of(base, seen)
    if isinstance(thing, dict):
        return total + sum(size_of(k, seen) + size_of(v, seen) for k, v in thing.items())
    if isinstance(thing, tuple | list):
        return total + sum(size_of(item, seen) for item in thing)
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    assert slots or not hasattr(thing, "__dict__")  # a __dict__ would not be counted
    return total + sum(size_of(getattr(thing, name), seen) for name in slots)


@pytest.mark.parametrize("shape", [(28, 28), (64, 64, 3)], ids=str)
@pytest.mark.parametrize("n_b", [1, 10])
@pytest.mark.parametrize(("form", "share"), [("global", 1.3), ("uniform", 3.5), ("gaussian", 3.5)])
def test_the_memory_of_a_session_is_bounded(form, share, shape, n_b):
    detector = QueryFilter(FilterConfig(t_ssim=0.9, t_hash=1.0, n_b=n_b, l_sp=10**6, ssim=form))
    for image in np.random.default_rng(0).random((2 * n_b, *shape)):
        detector.check(image)
    pixels = 4 * n_b * int(np.prod(shape))
    session_bytes = size_of(detector)
    assert pixels < detector.nbytes < session_bytes
    assert session_bytes <= share * pixels + 4096
