"""Search-space definitions of parameters: distance from a pole, scale, and the stricter direction."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mifsim.defense import Choice, FilterConfig, Param

SIMILARITY = Param(0.3, 0.99999, pole=1.0, strictness=1, least=-1.0, most=1.0)
GAP = Param(1e-5, 0.3, strictness=1, least=0.0, most=1.0)
RATIO = Param(1.5, 9.0, pole=1.0, strictness=-1, least=1.0)
"""A parameter that lies above its pole; a larger value blocks less."""
LIMIT = Param(1, 64, whole=True, strictness=-1, least=1, most=100)


def test_without_a_pole_the_distance_is_the_value() -> None:
    assert GAP.distances(0.1, 0.2) == (0.1, 0.2)
    assert (GAP.distance(0.1), GAP.value(0.1), GAP.value(0.1, above=True)) == (0.1, 0.1, 0.1)


def test_below_a_pole_the_largest_value_has_the_smallest_distance() -> None:
    assert SIMILARITY.distances(0.25, 0.75) == (0.25, 0.75)
    assert SIMILARITY.distances(-1.0, 0.5) == (0.5, 2.0)
    assert SIMILARITY.distance(0.75) == 0.25
    assert SIMILARITY.value(0.25) == 0.75


def test_above_a_pole_the_smallest_value_has_the_smallest_distance() -> None:
    assert RATIO.distances(1.5, 9.0) == (0.5, 8.0)
    assert RATIO.distance(1.5) == 0.5
    assert RATIO.value(0.5, above=True) == 1.5


def test_a_linear_scale_reaches_the_pole_from_either_side() -> None:
    below, above = Param(0.0, 1.0, pole=1.0, scale="linear"), Param(1.0, 3.0, pole=1.0, scale="linear")
    assert below.distances(0.0, 1.0) == (0.0, 1.0)
    assert above.distances(1.0, 3.0) == (0.0, 2.0)
    assert (below.value(0.0), above.value(0.0, above=True)) == (1.0, 1.0)
    assert Param(-2.0, 2.0, scale="linear").distances(-2.0, 2.0) == (-2.0, 2.0)  # 0 may lie between the bounds


@given(st.floats(-5, 5), st.floats(-5, 5), st.sampled_from([0.0, 1.0, -2.0]))
def test_a_value_follows_from_its_distance(first: float, second: float, pole: float) -> None:
    low, high = sorted((first, second))
    assume(not low < pole < high)
    param = Param(low, high, pole=pole, scale="linear")
    least, most = param.distances(low, high)
    for value in (low, high, (low + high) / 2):
        distance = param.distance(value)
        assert param.value(distance, above=high > pole) == pytest.approx(value, abs=1e-12)
        assert least <= most
        assert least - 1e-12 <= distance <= most + 1e-12


@pytest.mark.parametrize(
    ("param", "value", "step", "moved"),
    [
        (SIMILARITY, 0.75, 2.0, 0.5),  # less similar images match too: stricter
        (SIMILARITY, 0.75, 0.5, 0.875),
        (SIMILARITY, 0.0, 4.0, -1.0),  # the smallest value that a configuration accepts
        (SIMILARITY, 1.0, 3.0, 1.0),  # at the pole the distance is 0
        (GAP, 0.25, 2.0, 0.5),
        (GAP, 0.75, 2.0, 1.0),
        (RATIO, 2.0, 2.0, 1.5),
        (RATIO, 2.0, 0.25, 5.0),
        (LIMIT, 8, 2.0, 4),
        (LIMIT, 5, 2.0, 3),  # rounded up
        (LIMIT, 5, 1.1, 5),
        (LIMIT, 5, 0.5, 10),
        (LIMIT, 1, 3.0, 1),
        (LIMIT, 99, 0.5, 100),
    ],
)
def test_a_step_makes_a_value_stricter_or_less_strict(param: Param, value: float, step: float, moved: float) -> None:
    assert param.moved(value, step) == moved
    assert isinstance(param.moved(value, step), int) == param.whole


@given(st.sampled_from([SIMILARITY, GAP, RATIO, LIMIT]), st.floats(0, 1), st.sampled_from([1.1, 1.25, 1.5, 2.0, 3.0]))
def test_a_stricter_value_lies_on_the_stricter_side_within_the_bounds(param: Param, share: float, step: float) -> None:
    value = param.low + share * (param.high - param.low)
    value = math.ceil(value) if param.whole else value
    stricter, less_strict = param.moved(value, step), param.moved(value, 1 / step)
    direction = param.strictness
    slack = 1 if param.whole else 1e-12
    assert direction * param.distance(less_strict) <= direction * param.distance(value) + 1e-12
    assert direction * param.distance(stricter) >= direction * param.distance(value) - slack
    assert all(param.least <= result <= param.most for result in (stricter, less_strict))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"low": 2.0, "high": 1.0}, "need least <= low <= high <= most"),
        ({"low": 0.5, "high": 1.0, "least": 0.6}, "need least <= low <= high <= most"),
        ({"low": 0.5, "high": 1.0, "most": 0.9}, "need least <= low <= high <= most"),
        ({"low": 0.0, "high": 1.0}, "min = 0.0: must be above 0, because the search is logarithmic"),
        ({"low": -1.0, "high": 1.0}, "min = -1.0: must be above 0"),
        (
            {"low": 0.5, "high": 1.0, "pole": 1.0},
            "must not reach 1, because the search is logarithmic in",
        ),
        ({"low": 1.0, "high": 2.0, "pole": 1.0}, "must not reach 1"),
        ({"low": 0.5, "high": 2.0, "pole": 1.0}, "must not reach 1"),
        ({"low": 0.5, "high": 2.0, "pole": 1.0, "scale": "linear"}, "must lie on one side of 1"),
        ({"low": 1.5, "high": 3, "whole": True}, "min = 1.5: must be a whole number"),
        ({"low": 1, "high": 3.5, "whole": True}, "max = 3.5: must be a whole number"),
        ({"low": 1.0, "high": math.inf}, "max = inf: must be a number"),
        ({"low": 1.0, "high": 2.0, "strictness": 2}, "strictness must be -1, 0 or 1"),
        ({"low": 1.0, "high": 2.0, "scale": "cubic"}, "scale log or linear"),
    ],
)
def test_invalid_bounds_of_a_parameter_are_refused(given_: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Param(**given_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("param", "low", "high", "message"),
    [
        (LIMIT, 0, 5, "min = 0: must be from 1 to 100"),
        (LIMIT, 1, 101, "max = 101: must be from 1 to 100"),
        (LIMIT, 5, 4, "max = 4 is less than min = 5"),
        (LIMIT, 1, 2.5, "max = 2.5: must be a whole number"),
        (LIMIT, True, 5, "min = True: must be a number"),
        (LIMIT, 1, "5", "max = '5': must be a number"),
        (LIMIT, math.nan, 5, "min = nan: must be a number"),
        (RATIO, 0.5, 5.0, "min = 0.5: must be at least 1"),
        (Param(1.0, 2.0, most=3.0), 1.0, 4.0, "max = 4.0: must be at most 3"),
        (LIMIT, 1, 5.0, ""),
        (LIMIT, 3, 3, ""),
        (SIMILARITY, -1, 0.5, ""),
    ],
)
def test_bounds_in_a_study_follow_the_same_rules(param: Param, low: float, high: float, message: str) -> None:
    assert param.problem(low, high) == message


def test_accepted_values_are_described_in_words() -> None:
    assert Param(1.0, 2.0).accepted == "a number"
    assert RATIO.accepted == "at least 1"
    assert Param(1.0, 2.0, most=3.0).accepted == "at most 3"
    assert SIMILARITY.accepted == "from -1 to 1"
    assert Choice(("a", "b"), "a").words == "a, b"
    assert Choice(range(1, 257), 8).words == "a whole number from 1 to 256"


def test_an_optional_parameter_that_is_off_stays_off() -> None:
    leak = Param(0.01, 0.5, strictness=-1, least=0.0, most=0.9, off=0.0)
    count = Param(1, 8, whole=True, strictness=-1, least=1, most=9, off=0)
    for param in (leak, count):
        assert param.is_off(0)
        assert not param.is_off(1)
        assert [param.moved(0, step) for step in (0.5, 2.0)] == [0, 0]
        assert param.relaxed(0, (2.0,)) == []
    assert not replace(leak, off=None).is_off(0)
    assert [leak.moved(0.2, step) for step in (2.0, 0.5, 0.1)] == [0.1, 0.4, 0.9]
    assert leak.relaxed(0.2, (1.5, 2.0, 9.0)) == [pytest.approx(0.3), 0.4, 0.9]
    assert count.relaxed(3, (1.5, 2.0)) == [4, 5, 6, 8]  # by the steps of integers, up to the largest accepted value
    assert replace(count, strictness=1).relaxed(3, (2.0,)) == [2, 1]


def test_a_filter_config_moves_each_parameter_in_its_stricter_direction() -> None:
    config = FilterConfig(0.9, 0.1, 5, 8)
    assert config.stricter(2.0) == FilterConfig(1 - 2 * (1 - 0.9), 0.2, 5, 4)
    assert config.stricter(0.5) == FilterConfig(1 - 0.5 * (1 - 0.9), 0.05, 5, 16)
    copies = config.conservative((1.25, 2.0))
    assert copies[0].t_ssim == pytest.approx(0.92)
    assert copies[0].t_hash == pytest.approx(0.08)
    assert {(copy.n_b, copy.l_sp) for copy in copies[:2]} == {(5, 8)}  # only the thresholds change
    assert copies[2:] == [FilterConfig(0.9, 0.1, 5, limit) for limit in (9, 10, 11, 13, 16)]
