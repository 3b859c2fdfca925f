"""Search spaces: errors that name the key, and conversion of points to configurations and back."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mifsim.defense import Choice, DetectorConfig, FilterConfig, NoDefense, Param, View
from mifsim.defense.kinds import definition_problem
from mifsim.defense.space import SearchSpace, corner_points
from mifsim.errors import ConfigError
from mifsim.plugins import register
from mifsim.registry import registry


@dataclass(frozen=True)
class OddConfig(DetectorConfig):
    """A configuration with parameters below, above and at their poles."""

    below: float
    above: float
    from_pole: float
    whole: int
    colour: str = "red"
    extra: float = 0.0

    kind: ClassVar[str] = "test-odd"
    params: ClassVar[Mapping[str, Param]] = {
        "below": Param(0.1, 0.9, pole=1.0, search_name="a"),
        "above": Param(1.5, 9.0, pole=1.0, strictness=1),
        "from_pole": Param(1.0, 3.0, pole=1.0, scale="linear"),
        "whole": Param(3, 12, pole=2.0, whole=True),
        "extra": Param(0.25, 0.5, search_name="z", off=0.0),
    }
    choices: ClassVar[Mapping[str, Choice]] = {"colour": Choice(("red", "blue", "green"), "red")}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.whole, int):
            raise ConfigError(f"whole = {self.whole!r}: must be a whole number")
        if self.colour == "green" and self.whole > 10:
            raise ConfigError("whole: at most 10 where it is green")

    def new_detector(self) -> NoDefense:
        return NoDefense()


@pytest.fixture(scope="module", autouse=True)
def _odd_kind() -> Iterator[None]:
    register("detectors", "test-odd")(OddConfig)
    yield
    registry("detectors").forget(OddConfig.__module__)


def test_parameters_that_a_space_omits_have_the_kinds_defaults() -> None:
    space = SearchSpace.parse("ssim-hash", {"n_b": {"max": 7}, "ssim": ["uniform", "global"], "t_ssim": {"min": 0}})
    assert space.bounds == {"t_ssim": (0.0, 0.99999), "t_hash": (1e-5, 0.3), "n_b": (1, 7), "l_sp": (1, 64)}
    assert space.choices == {"ssim": ("uniform", "global"), "count_rule": ("per_match",), "hash_size": (8,)}
    assert space.searched_choices == {"ssim": ("uniform", "global")}
    assert (space.scope, space.view) == ("session", None)
    assert space.config_class is FilterConfig
    assert type(space.bounds["n_b"][1]) is int
    assert type(space.bounds["t_ssim"][0]) is float
    assert SearchSpace.parse("ssim-hash", space.to_dict()) == space
    assert pickle.loads(pickle.dumps(space)) == space


def test_a_single_choice_may_be_given_without_a_list() -> None:
    assert SearchSpace.parse("ssim-hash", {"ssim": "uniform"}).choices["ssim"] == ("uniform",)


@pytest.mark.parametrize(
    ("kind", "given_", "message"),
    [
        ("ssim-hsh", {}, r"kind = 'ssim-hsh': .*did you mean 'ssim-hash'\? \(accepted: ssim-hash, evidence, "),
        (7, {}, "kind = 7"),
        ("none", {}, "kind = 'none': has no parameter to search"),
        (
            "ssim-hash",
            {"t_sim": {}},
            r"space.t_sim: 'ssim-hash' has no such parameter; did you mean 't_ssim'\? "
            r"\(accepted: t_ssim, t_hash, n_b, l_sp, leak, repeats, ssim, count_rule, hash_size\)",
        ),
        ("ssim-hash", {"window": 7}, "space.window: .*has no such parameter .accepted"),
        ("ssim-hash", {"t_ssim": 0.9}, r"space.t_ssim = 0.9: must be a table such as \{min = 0.3, max = 0.99999\}"),
        ("ssim-hash", {"t_ssim": {"from": 0.5}}, "space.t_ssim = .*from.*: must be a table"),
        ("ssim-hash", {"t_ssim": {"max": 1.5}}, "space.t_ssim.max = 1.5: must be from -1 to 1"),
        ("ssim-hash", {"t_ssim": {"max": 1.0}}, "space.t_ssim.min = 0.3, max = 1.0: must not reach 1"),
        ("ssim-hash", {"n_b": {"min": 2.5}}, "space.n_b.min = 2.5: must be a whole number"),
        ("ssim-hash", {"n_b": {"min": 9, "max": 8}}, "space.n_b.max = 8 is less than min = 9"),
        (
            "ssim-hash",
            {"ssim": []},
            r"space.ssim = \[\]: needs at least one value .accepted: global, uniform, gaussian",
        ),
        ("ssim-hash", {"ssim": ["global", "local"]}, "space.ssim: 'local' is not a valid value .accepted: global, uni"),
        ("ssim-hash", {"ssim": ["global", "global"]}, "space.ssim = .*: each may be given once"),
        ("ssim-hash", {"hash_size": [8, 257]}, "space.hash_size: 257 is not .*accepted: a whole number from 1 to 256"),
        ("ssim-hash", {"hash_size": True}, "space.hash_size: True is not a valid value"),
        ("test-odd", {"above": {"min": 0.5}}, "space.above.min = 0.5, max = 9.0: must not reach 1"),
        ("test-odd", {"from_pole": {"min": 0.5}}, "space.from_pole.min = 0.5, max = 3.0: must lie on one side of 1"),
        ("test-odd", {"colour": ["red", "green"]}, "whole: at most 10 where it is green"),
    ],
)
def test_an_invalid_space_is_refused_and_its_key_named(kind: Any, given_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchSpace.parse(kind, given_)


def test_a_space_includes_the_scope_and_the_view() -> None:
    space = SearchSpace.parse("ssim-hash", {}, "client", {"size": 7, "colour": "grey"})
    assert space.view == View((7, 7), "grey")
    assert {(corner.scope, corner.view) for corner in space.corners()} == {("client", View((7, 7), "grey"))}
    with pytest.raises(ConfigError, match=r"view.size = 0"):
        SearchSpace.parse("ssim-hash", {}, "client", {"size": 0})
    with pytest.raises(ConfigError, match="scope = 'day': must be one of session, client"):
        SearchSpace.parse("ssim-hash", {}, "day")  # type: ignore[arg-type]


SPACE = SearchSpace.parse("ssim-hash", {"ssim": ["global", "uniform"], "hash_size": [4, 8]}, "client", {"size": 7})


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 32), st.integers(1, 64), st.sampled_from(["global", "uniform"]))
def test_a_point_converts_to_a_configuration_and_back(one: float, other: float, n_b: int, l_sp: int, ssim: str) -> None:
    distances = {"d_ssim": 1e-5 * (0.7 / 1e-5) ** one, "t_hash": 1e-5 * (0.3 / 1e-5) ** other}
    point = {**distances, "n_b": n_b, "l_sp": l_sp, "ssim": ssim, "hash_size": 4}
    config = SPACE.config(point)
    assert config == FilterConfig(
        1 - distances["d_ssim"], distances["t_hash"], n_b, l_sp, ssim, 4, scope="client", view=View((7, 7))
    )
    assert SPACE.contains(config)
    converted = SPACE.point(config)
    assert set(converted) == set(point)
    assert all(converted[name] == point[name] for name in ("n_b", "l_sp", "ssim", "hash_size", "t_hash"))
    assert converted["d_ssim"] == pytest.approx(point["d_ssim"], abs=1e-15)


@given(st.floats(0.1, 0.9), st.floats(1.5, 9), st.floats(1, 3), st.integers(3, 12), st.sampled_from(["red", "blue"]))
def test_a_configuration_converts_to_a_point_and_back_on_both_sides_of_a_pole(
    below: float, above: float, from_pole: float, whole: int, colour: str
) -> None:
    space = SearchSpace.parse("test-odd", {"colour": ["red", "blue"]})
    config = OddConfig(below, above, from_pole, whole, colour)
    assert space.contains(config)
    point = space.point(config)
    assert point == {
        "a": 1 - below, "above": above - 1, "from_pole": from_pole - 1, "whole": whole - 2, "colour": colour
    }  # fmt: skip
    converted_config = space.config(point)
    assert isinstance(converted_config, OddConfig)
    assert (converted_config.whole, converted_config.colour) == (whole, colour)
    for name in ("below", "above", "from_pole"):
        assert getattr(converted_config, name) == pytest.approx(getattr(config, name), abs=1e-12)


def test_an_optional_parameter_is_searched_only_if_it_is_named() -> None:
    plain, named = SearchSpace.parse("test-odd", {}), SearchSpace.parse("test-odd", {"extra": {"max": 0.4}})
    assert "extra" not in {**plain.bounds, **plain.params, **plain.to_dict()}
    assert named.bounds == {**plain.bounds, "extra": (0.25, 0.4)}
    assert SearchSpace.parse("test-odd", named.to_dict()) == named
    off, used = OddConfig(0.5, 2.0, 2.0, 5), OddConfig(0.5, 2.0, 2.0, 5, extra=0.3)
    assert plain.config(plain.point(off)) == off
    assert named.point(used) == {**plain.point(off), "z": 0.3}
    assert named.config(named.point(used)) == used
    assert [space.contains(config) for space in (plain, named) for config in (off, used)] == [True, False, False, True]
    assert len(named.corners()) == 2 * len(plain.corners())
    assert "extra" not in off.to_dict()
    assert used.to_dict()["extra"] == 0.3


def test_an_optional_parameter_that_is_on_by_default_is_an_invalid_definition() -> None:
    @dataclass(frozen=True)
    class OnConfig(OddConfig):
        extra: float = 0.25

    assert definition_problem("test-odd", OddConfig) == ""
    problem = "OnConfig: 'extra' is optional, so its default must be 0.0, the value that is off"
    assert definition_problem("test-odd", OnConfig) == problem


def test_a_space_does_not_contain_configurations_outside_its_bounds() -> None:
    space = SearchSpace.parse("ssim-hash", {"t_ssim": {"max": 0.9}, "n_b": {"max": 5}})
    inside = FilterConfig(0.9, 0.1, 5, 8)
    assert space.contains(inside)
    assert space.contains(FilterConfig(1 - (1 - 0.9), 0.1, 5, 8))  # within rounding: a value computed from its distance
    for outside in (FilterConfig(0.9001, 0.1, 5, 8), FilterConfig(0.9, 0.4, 5, 8), FilterConfig(0.9, 0.1, 6, 8)):
        assert not space.contains(outside)


def test_corners_combine_every_bound_with_every_choice() -> None:
    space = SearchSpace.parse("ssim-hash", {"ssim": ["global", "uniform"], "n_b": {"min": 4, "max": 4}})
    corners = space.corners()
    assert len(corners) == len(set(corners)) == 2 * 2 * 1 * 2 * 2
    assert {corner.n_b for corner in corners} == {4}  # type: ignore[attr-defined]
    assert all(space.contains(corner) for corner in corners)
    assert corner_points({"x": (1, 2)}, {"y": ("a", "b")}) == [{"x": x, "y": y} for x in (1, 2) for y in ("a", "b")]
