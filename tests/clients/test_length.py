"""The `length` argument of users: a number, a range or a mean."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import chisquare

from mifsim.clients.users.length import Length


def draws(length: Length, count: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.array([length.draw(rng) for _ in range(count)])


def test_a_number_is_returned_without_a_random_draw() -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert Length(17).draw(rng) == 17
    assert rng.bit_generator.state == before


def test_a_range_includes_its_ends_and_is_uniform() -> None:
    values, counts = np.unique(draws(Length.model_validate({"min": 3, "max": 7}), 5000), return_counts=True)
    assert values.tolist() == [3, 4, 5, 6, 7]
    assert chisquare(counts).pvalue > 1e-3


def test_a_mean_gives_a_geometric_distribution() -> None:
    drawn = draws(Length.model_validate({"mean": 4}), 20_000)
    assert drawn.min() == 1
    assert drawn.mean() == pytest.approx(4, rel=0.03)
    assert (drawn == 1).mean() == pytest.approx(1 / 4, rel=0.05)
    assert (drawn > 10).mean() == pytest.approx((3 / 4) ** 10, rel=0.1)


def test_a_mean_of_one_is_always_one() -> None:
    assert set(draws(Length.model_validate({"mean": 1}), 100)) == {1}


@pytest.mark.parametrize("plain", [50, {"min": 2, "max": 6}, {"mean": 12.5}])
def test_a_length_is_written_as_it_was_read(plain: Any) -> None:
    length = Length.model_validate(plain)
    assert length.model_dump(mode="json") == plain
    assert Length.model_validate(json.loads(length.model_dump_json())) == length


@pytest.mark.parametrize(
    "invalid",
    [0, -3, 2.5, True, "5", None, {}, {"min": 3, "max": 2}, {"min": 0, "max": 2}, {"min": 1}, {"mean": 0.5},
     {"mean": float("nan")}, {"mean": float("inf")}, {"mean": 3, "min": 1}, {"men": 3}, [1, 2]],
)  # fmt: skip
def test_an_invalid_length_is_reported_in_one_line(invalid: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Length.model_validate(invalid)
    (error,) = caught.value.errors()
    assert "whole number of at least 1" in error["msg"]
    assert repr(invalid) in error["msg"]
