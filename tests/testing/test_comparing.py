"""Comparisons name the first difference, in a short message whatever the size of the values."""

from __future__ import annotations

import numpy as np
import pytest

from mifsim.testing.comparing import assert_same, first_difference

EQUAL = [
    ([], []),
    ({"a": [1, (2, 3)]}, {"a": [1, (2, 3)]}),
    ([b"image"] * 40, [b"image"] * 40),
    ((1, 2.5), (1, 2.5)),
    (1, True),  # as for ==
]
DIFFERENT = [
    (["SAFE", "SAFE"], ["SAFE", "UNSAFE"], "x[1] is 'SAFE'; expected 'UNSAFE'"),
    ([1, 2, 3], [1, 2], "x has 3 items; expected 2"),
    ([], [1], "x has 0 items; expected 1"),
    ({"a": 1}, {"a": 1, "b": 2}, "x['b'] is missing"),
    ({"a": 1, "b": 2}, {"a": 1}, "x['b'] is 2; expected no such key"),
    ({"a": [0, {"b": (1, 2)}]}, {"a": [0, {"b": (1, 3)}]}, "x['a'][1]['b'][1] is 2; expected 3"),
    ([1], (1,), "x is [1]; expected (1,)"),
    (None, 0, "x is None; expected 0"),
    (float("nan"), float("nan"), "x is nan; expected nan"),  # as for ==
]


@pytest.mark.parametrize(("found", "expected"), EQUAL)
def test_equal_values_have_no_difference(found: object, expected: object) -> None:
    assert first_difference(found, expected, "x") is None
    assert_same(found, expected, "x")


@pytest.mark.parametrize(("found", "expected", "text"), DIFFERENT)
def test_the_first_difference_is_named(found: object, expected: object, text: str) -> None:
    assert first_difference(found, expected, "x") == text
    with pytest.raises(AssertionError) as caught:
        assert_same(found, expected, "x")
    assert str(caught.value).splitlines()[0] == text


def test_the_message_about_images_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CI is set, pytest's own diff of these lists takes minutes."""
    monkeypatch.setenv("CI", "true")
    one, other = (
        [np.random.default_rng(seed).random((28, 28), np.float32).tobytes() for _ in range(40)] for seed in (1, 2)
    )
    with pytest.raises(AssertionError) as caught:
        assert_same(one, other, "image")
    assert str(caught.value).startswith("image[0] is b'")
    assert len(str(caught.value)) < 300
