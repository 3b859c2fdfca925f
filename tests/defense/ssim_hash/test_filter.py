"""Algorithm 2: cases worked by hand, and any stream against the algorithm written down line by line."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mifsim.defense import (
    Detector,
    FilterConfig,
    InvalidImage,
    NoDefense,
    QueryFilter,
    Verdict,
    View,
    simple_hash,
    ssim,
)
from mifsim.defense.ssim_hash.recorder import SsimHashRecorder
from tests.defense.conftest import NOISE, pool_of
from tests.defense.ssim_hash.reference import FORMS, ReferenceFilter, reference_hash, reference_ssim


def flat(level, shape=(12, 12)):
    """Return an image whose hash is its level, exactly, if the level is a multiple of 1/256."""
    return np.full(shape, level, dtype=np.float32)


def verdicts(detector, images):
    return [detector.check(image).name for image in images]


def make_config(**fields):
    return FilterConfig(**{"t_ssim": 0.9, "t_hash": 0.1, "n_b": 10, "l_sp": 3} | fields)


A, B, C = flat(0.0), flat(0.5), flat(1.0)  # no two of them similar


def test_the_image_that_reaches_the_limit_is_unsafe_and_not_stored():
    detector = QueryFilter(make_config(l_sp=1))
    assert verdicts(detector, [A, B, A]) == ["SAFE", "SAFE", "UNSAFE"]
    assert detector.count == 1
    assert detector.blocked
    assert [image[0, 0] for image in detector.state_dict()["images"]] == [0.0, 0.5]


def test_every_match_counts():
    """The third A meets two: 0, then 1, then 1 + 2."""
    detector = QueryFilter(make_config(l_sp=10))
    counts = [(detector.check(A), detector.count)[1] for _ in range(4)]
    assert counts == [0, 1, 3, 6]


def test_a_query_counts_once_by_the_other_rule():
    detector = QueryFilter(make_config(l_sp=10, count_rule="per_query"))
    counts = [(detector.check(A), detector.count)[1] for _ in range(4)]
    assert counts == [0, 1, 2, 3]


def test_counting_stops_at_the_limit():
    """The third A meets two but the first of them is enough: the count is 2, not 3."""
    detector = QueryFilter(make_config(l_sp=2))
    assert verdicts(detector, [A, A, A]) == ["SAFE", "SAFE", "UNSAFE"]
    assert detector.count == 2


def test_the_count_outlives_the_images_that_made_it():
    detector = QueryFilter(make_config(n_b=1, l_sp=2))
    assert verdicts(detector, [A, A, B, C, A, B, C, C]) == ["SAFE"] * 7 + ["UNSAFE"]


def test_first_in_first_out():
    detector = QueryFilter(make_config(n_b=2, l_sp=1))
    assert verdicts(detector, [A, B, C, A, B, C]) == ["SAFE"] * 6  # each has left when it comes again
    assert verdicts(detector, [B]) == ["UNSAFE"]
    detector = QueryFilter(make_config(n_b=3, l_sp=1))
    assert verdicts(detector, [A, B, C, A]) == ["SAFE"] * 3 + ["UNSAFE"]


def test_a_similar_image_is_enqueued_below_the_limit():
    detector = QueryFilter(make_config(n_b=2, l_sp=3))
    verdicts(detector, [A, B, A])
    assert [image[0, 0] for image in detector.state_dict()["images"]] == [0.5, 0.0]


def test_blocked_for_ever_whatever_comes():
    detector = QueryFilter(make_config(l_sp=1))
    verdicts(detector, [A, A])
    before = detector.state_dict()
    assert verdicts(detector, [C, flat(0.3, (5, 5)), np.full((12, 12), np.nan), None]) == ["UNSAFE"] * 4
    after = detector.state_dict()
    assert after["count"] == before["count"] == 1
    assert np.array_equal(after["images"], before["images"])


def test_the_hash_gap_is_compared_strictly():
    x, y = flat(0.5), flat(0.75)
    assert abs(simple_hash(x) - simple_hash(y)) == 0.25
    for t_hash, outcome in ((0.25, "SAFE"), (np.nextafter(0.25, 1), "UNSAFE")):
        detector = QueryFilter(make_config(t_ssim=-1, t_hash=t_hash, l_sp=1))
        assert verdicts(detector, [x, y]) == ["SAFE", outcome]


@pytest.mark.parametrize("form", FORMS)
def test_the_similarity_is_compared_strictly(form):
    x, y = pool_of((12, 12))[0], pool_of((12, 12))[3]
    value = ssim(y, x, form)
    for t_ssim, outcome in ((value, "SAFE"), (np.nextafter(value, -1), "UNSAFE")):
        detector = QueryFilter(make_config(t_ssim=t_ssim, l_sp=1, ssim=form))
        assert verdicts(detector, [x, y]) == ["SAFE", outcome]


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_more_similar_than_1(form):
    x = pool_of((12, 12))[0]
    assert verdicts(QueryFilter(make_config(t_ssim=1, l_sp=1, ssim=form)), [x, x, x]) == ["SAFE"] * 3
    below = np.nextafter(1, 0)
    assert verdicts(QueryFilter(make_config(t_ssim=below, l_sp=1, ssim=form)), [x, x]) == ["SAFE", "UNSAFE"]


def test_both_tests_must_pass():
    x = np.zeros((16, 16), dtype=np.float32)
    x[:8] = 1
    assert simple_hash(x) == simple_hash(1 - x)  # but they are as unlike as can be
    assert verdicts(QueryFilter(make_config(t_ssim=0.5, l_sp=1)), [x, 1 - x]) == ["SAFE", "SAFE"]
    dark, darker = flat(0.9), flat(0.7)
    assert ssim(dark, darker) > 0.9  # but their hashes are 0.2 apart
    assert verdicts(QueryFilter(make_config(l_sp=1)), [dark, darker]) == ["SAFE", "SAFE"]


def test_the_hash_size_is_the_setting_s():
    """Sizes differ in rounding alone, but they do: at a threshold between the two gaps, so do the verdicts."""
    x, y = pool_of((12, 12))[0], pool_of((12, 12))[5]
    gaps = {size: abs(simple_hash(x, size) - simple_hash(y, size)) for size in (5, 8)}
    assert gaps[5] != gaps[8]
    for size, gap in gaps.items():
        config = make_config(t_ssim=-1, t_hash=max(gaps.values()), l_sp=1, hash_size=size)
        assert verdicts(QueryFilter(config), [x, y])[1] == ("UNSAFE" if gap < max(gaps.values()) else "SAFE")


def test_uint8_is_divided_by_255_first():
    codes = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    detector = QueryFilter(make_config(t_ssim=np.nextafter(1, 0), t_hash=1e-300, l_sp=1))
    assert verdicts(detector, [codes, codes.astype(np.float32) / np.float32(255)]) == ["SAFE", "UNSAFE"]


def test_what_the_client_does_with_its_array_changes_nothing():
    image = A.copy()
    detector = QueryFilter(make_config(l_sp=1))
    detector.check(image)
    image[:] = 1
    assert verdicts(detector, [C, A]) == ["SAFE", "UNSAFE"]


def test_all_are_guards_and_say_what_they_are():
    detector = QueryFilter(make_config(l_sp=1))
    assert all(isinstance(g, Detector) for g in (detector, SsimHashRecorder(3), NoDefense()))
    assert "open: count 0 of 1, 0 of 10 images, " in repr(detector)
    verdicts(detector, [A, A])
    assert "blocked: count 1 of 1, 1 of 10 images of shape (12, 12), FilterConfig(" in repr(detector)


def test_open_lets_everything_pass():
    detector = NoDefense()
    assert [detector.check(A) for _ in range(50)] == [Verdict.SAFE] * 50
    assert (detector.count, detector.blocked) == (0, False)


def test_the_paper_s_settings_on_a_slowly_moving_image():
    """Near-identical submissions, as a model-inversion attack sends: L_sp = 4 is reached at the fourth image.

    The counts are 0, 1, 3 and, stopped, 4.
    """
    rng = np.random.default_rng(0)
    base = rng.random((28, 28))
    images = [np.clip(base + 1e-5 * step, 0, 1).astype(np.float32) for step in range(5)]
    detector = QueryFilter(FilterConfig(t_ssim=0.999, t_hash=1e-3, n_b=10, l_sp=4))
    assert verdicts(detector, images) == ["SAFE", "SAFE", "SAFE", "UNSAFE", "UNSAFE"]
    assert detector.count == 4


def test_a_leak_lowers_the_count_once_a_query():
    """Quarters are exact. The third A meets two: 0.75, then 0.75 + 2 - 0.25; then B and C, which meet nothing."""
    detector = QueryFilter(make_config(l_sp=10, leak=0.25))
    counts = [(detector.check(image), detector.count)[1] for image in (A, A, A, B, C)]
    assert counts == [0, 0.75, 2.5, 2.25, 2.0]
    detector = QueryFilter(make_config(l_sp=10, leak=0.25, count_rule="per_query"))
    counts = [(detector.check(image), detector.count)[1] for image in (A, A, A, B, C)]
    assert counts == [0, 0.75, 1.5, 1.25, 1.0]


def test_a_leak_does_not_take_the_count_below_0():
    detector = QueryFilter(make_config(n_b=1, l_sp=3, leak=0.75))
    counts = [(detector.check(image), detector.count)[1] for image in (A, A, B, C, C)]
    assert counts == [0, 0.25, 0, 0, 0.25]


def test_the_leak_applies_to_the_query_that_blocks():
    """One match is 0.75, which does not block. The fourth query reaches 1.5 + 1 - 0.25, and the count stops at 2."""
    detector = QueryFilter(make_config(l_sp=1, leak=0.25))
    assert verdicts(detector, [A, A]) == ["SAFE", "SAFE"]
    assert detector.count == 0.75
    detector = QueryFilter(make_config(n_b=1, l_sp=2, leak=0.25))
    assert [(detector.check(A).name, detector.count) for _ in range(4)] == [
        ("SAFE", 0), ("SAFE", 0.75), ("SAFE", 1.5), ("UNSAFE", 2)
    ]  # fmt: skip
    assert detector.blocked


def test_an_invalid_image_does_not_leak():
    detector = QueryFilter(make_config(leak=0.25))
    verdicts(detector, [A, A])
    for bad in (np.full((12, 12), np.nan), flat(0.5, (5, 5)), None):
        with pytest.raises(InvalidImage):
            detector.check(bad)
    assert detector.count == 0.75


def test_a_leak_is_subtracted_in_float64_after_the_matches():
    """(S + m) - leak and (S - leak) + m differ in the last bit of some numbers: the order is part of the definition."""
    detector = QueryFilter(make_config(l_sp=100, leak=0.1))
    count, orders = 0.0, set()
    for seen in range(12):
        detector.check(A)
        matches = min(seen, 10)
        orders.add((count + matches) - 0.1 == (count - 0.1) + matches)
        count = max(0.0, (count + matches) - 0.1)
        assert detector.count == count
    assert orders == {True, False}


def test_a_leak_spares_a_slow_stream_however_long():
    """One match in every 20 queries, and a leak of 1/16: without it, three matches block."""
    stream = ([A, A] + [flat(level / 256) for level in range(20, 200, 10)]) * 5
    config = make_config(t_ssim=0.9999, n_b=2)
    assert "UNSAFE" in verdicts(QueryFilter(config), stream)
    detector = QueryFilter(replace(config, leak=1 / 16))
    assert set(verdicts(detector, stream)) == {"SAFE"}


NEAR = np.clip(A + np.float32(0.001), 0, 1)  # similar to A, but not equal


def test_exact_repeats_are_no_matches_but_counted_apart():
    detector = QueryFilter(make_config(l_sp=10, repeats=3))
    found = [(detector.check(image).name, detector.count, detector.repeat_count) for image in (A, NEAR, A, B, A)]
    # The third image repeats A and matches NEAR.
    assert found == [("SAFE", 0, 0), ("SAFE", 1, 0), ("SAFE", 2, 1), ("SAFE", 2, 1), ("SAFE", 3, 2)]
    # The second B is the third repeat: it blocks before matches are counted, and is not stored.
    assert detector.check(B).name == "UNSAFE"
    assert (detector.count, detector.repeat_count, detector.blocked) == (3, 3, True)
    assert [image[0, 0] for image in detector.state_dict()["images"]] == [A[0, 0], NEAR[0, 0], A[0, 0], 0.5, A[0, 0]]
    assert detector.check(C).name == "UNSAFE"


def test_a_query_is_one_repeat_however_many_images_it_equals():
    detector = QueryFilter(make_config(l_sp=1, repeats=10))
    assert verdicts(detector, [A] * 9) == ["SAFE"] * 9
    assert (detector.count, detector.repeat_count) == (0, 8)


def test_a_repeat_is_one_of_a_buffered_image():
    detector = QueryFilter(make_config(n_b=2, repeats=1))
    assert verdicts(detector, [A, B, C, A, B, C]) == ["SAFE"] * 6  # each has left when it comes again
    assert verdicts(detector, [B]) == ["UNSAFE"]


def test_repeats_do_not_leak():
    detector = QueryFilter(make_config(n_b=3, leak=0.5, repeats=3))
    assert verdicts(detector, [A, A, B, C, B, NEAR, A, A]) == ["SAFE"] * 7 + ["UNSAFE"]
    assert detector.repeat_count == 3


def test_images_are_compared_as_the_filter_sees_them():
    """After the conversion of bytes, in every pixel and channel, and after the view; -0 equals 0."""
    codes = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    image = codes.astype(np.float32) / np.float32(255)
    for other, repeats in ((image, 1), (image.astype(np.float64), 1), (np.nextafter(image, np.float32(0.5)), 0)):
        detector = QueryFilter(make_config(repeats=5))
        verdicts(detector, [codes, other])
        assert detector.repeat_count == repeats
    blue, red = np.zeros((12, 12, 3), np.float32), np.zeros((12, 12, 3), np.float32)
    blue[..., 2], red[..., 0] = 0.299, 0.114  # of equal luma
    halves = np.tile(np.float32([0.25, 0.75]), (12, 6))
    for view, image, other, repeats in (
        (None, blue, blue, 1),
        (None, blue, red, 0),
        (View(None, "grey"), blue, red, 1),
        (View((12, 6)), halves, np.full((12, 12), 0.5), 1),
        (None, halves, np.full((12, 12), 0.5), 0),
        (None, np.zeros((12, 12)), -np.zeros((12, 12)), 1),
    ):
        detector = QueryFilter(make_config(repeats=5, view=view))
        verdicts(detector, [image, other])
        assert detector.repeat_count == repeats


def test_without_additions_counts_are_whole():
    detector = QueryFilter(make_config(l_sp=3))
    verdicts(detector, [A, A, A])
    assert type(detector.count) is int
    assert type(detector.state_dict()["count"]) is int
    assert set(detector.state_dict()) == {"version", "count", "shape", "images"}
    assert detector.repeat_count == 0


configs = st.builds(
    FilterConfig,
    t_ssim=st.sampled_from([-1.0, 0.3, 0.9, 0.99, 0.999, 0.99999]),
    t_hash=st.sampled_from([1e-4, 1e-3, 3e-2, 1.0]),
    n_b=st.integers(1, 5),
    l_sp=st.integers(1, 8),
    ssim=st.sampled_from(FORMS),
    hash_size=st.sampled_from([4, 8]),
    count_rule=st.sampled_from(["per_match", "per_query"]),
    leak=st.sampled_from([0.0, 0.0, 0.05, 0.25, 0.9]),
    repeats=st.sampled_from([0, 0, 1, 2, 5]),
)
streams = st.lists(st.integers(0, 3 * len(NOISE) - 1), min_size=1, max_size=25)


@given(config=configs, stream=streams)
@settings(max_examples=150, deadline=None)
def test_any_stream_against_the_algorithm_written_down(pool, config, stream):
    detector = QueryFilter(config)
    similarity = cache(lambda i, j: reference_ssim(pool[i], pool[j], config.ssim))
    hash_ = cache(lambda i: reference_hash(pool[i], config.hash_size))
    reference = ReferenceFilter(config, similarity, hash_, lambda i, j: np.array_equal(pool[i], pool[j]))
    for index in stream:
        expected = reference.check(index)
        assume(reference.margin > 1e-6)  # where floating point decides, either is right
        assert detector.check(pool[index]).name == expected
        assert (detector.count, detector.repeat_count) == (reference.count, reference.repeats)
        assert detector.blocked == (expected == "UNSAFE")
    assert np.array_equal(detector.state_dict()["images"], np.stack([pool[i] for i in reference.buffer]))


def test_sessions_in_threads_do_not_mix(pool):
    config = make_config(t_ssim=0.99, l_sp=40)

    def session(seed):
        order = np.random.default_rng(seed).integers(0, len(pool), 60)
        detector = QueryFilter(config)
        return [(detector.check(pool[i]), detector.count) for i in order]

    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(session, range(8)))
    assert together == [session(seed) for seed in range(8)]
