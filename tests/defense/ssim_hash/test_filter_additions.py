"""The filter's additions to Algorithm 2, a leak and a separate count of exact repeats: cases computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mifsim.defense import InvalidImage, QueryFilter, View
from tests.defense.ssim_hash.filter_samples import A, B, C, flat, make_config, verdicts


def test_a_leak_lowers_the_count_once_per_query():
    """Quarters are exact. The third A matches two images: 0.75, then 0.75 + 2 - 0.25; B and C match none."""
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


def test_an_invalid_image_does_not_lower_the_count():
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


def test_with_a_leak_a_stream_with_few_matches_is_never_blocked():
    """One match in every 20 queries, and a leak of 1/16: without it, three matches block."""
    stream = ([A, A] + [flat(level / 256) for level in range(20, 200, 10)]) * 5
    config = make_config(t_ssim=0.9999, n_b=2)
    assert "UNSAFE" in verdicts(QueryFilter(config), stream)
    detector = QueryFilter(replace(config, leak=1 / 16))
    assert set(verdicts(detector, stream)) == {"SAFE"}


NEAR = np.clip(A + np.float32(0.001), 0, 1)  # similar to A, but not equal


def test_exact_repeats_are_counted_separately_and_are_no_matches():
    detector = QueryFilter(make_config(l_sp=10, repeats=3))
    found = [(detector.check(image).name, detector.count, detector.repeat_count) for image in (A, NEAR, A, B, A)]
    # The third image repeats A and matches NEAR.
    assert found == [("SAFE", 0, 0), ("SAFE", 1, 0), ("SAFE", 2, 1), ("SAFE", 2, 1), ("SAFE", 3, 2)]
    # The second B is the third repeat: it blocks before matches are counted, and is not stored.
    assert detector.check(B).name == "UNSAFE"
    assert (detector.count, detector.repeat_count, detector.blocked) == (3, 3, True)
    assert [image[0, 0] for image in detector.state_dict()["images"]] == [A[0, 0], NEAR[0, 0], A[0, 0], 0.5, A[0, 0]]
    assert detector.check(C).name == "UNSAFE"


def test_a_query_that_equals_several_images_is_one_repeat():
    detector = QueryFilter(make_config(l_sp=1, repeats=10))
    assert verdicts(detector, [A] * 9) == ["SAFE"] * 9
    assert (detector.count, detector.repeat_count) == (0, 8)


def test_only_a_repeat_of_a_buffered_image_counts():
    detector = QueryFilter(make_config(n_b=2, repeats=1))
    assert verdicts(detector, [A, B, C, A, B, C]) == ["SAFE"] * 6  # each has left the buffer before its repeat
    assert verdicts(detector, [B]) == ["UNSAFE"]


def test_a_leak_does_not_lower_the_count_of_repeats():
    detector = QueryFilter(make_config(n_b=3, leak=0.5, repeats=3))
    assert verdicts(detector, [A, A, B, C, B, NEAR, A, A]) == ["SAFE"] * 7 + ["UNSAFE"]
    assert detector.repeat_count == 3


def test_repeats_are_compared_after_conversion_and_view():
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


def test_without_additions_counts_are_integers():
    detector = QueryFilter(make_config(l_sp=3))
    verdicts(detector, [A, A, A])
    assert type(detector.count) is int
    assert type(detector.state_dict()["count"]) is int
    assert set(detector.state_dict()) == {"version", "count", "shape", "images"}
    assert detector.repeat_count == 0
