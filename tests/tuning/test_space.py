"""A study's search space in the terms of the sampler, and sections of ``[tuning]`` as mifsim 0.1.0 wrote them."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from mifsim.defense import FilterConfig, View
from mifsim.defense.space import SearchSpace
from mifsim.errors import StudyError
from mifsim.study import Study, Tuning
from tests.tuning.studies import tiny_study
from tuning.space import distributions


def test_each_parameter_has_the_distribution_of_its_distance_and_each_choice_its_values() -> None:
    space = SearchSpace.parse(
        "ssim-hash",
        {"t_ssim": {"min": 0.5, "max": 0.75}, "n_b": {"max": 7}, "ssim": ["uniform", "global"], "hash_size": [4, 8]},
    )
    assert distributions(space) == {
        "d_ssim": FloatDistribution(0.25, 0.5, log=True),
        "t_hash": FloatDistribution(1e-5, 0.3, log=True),
        "n_b": IntDistribution(1, 7, log=True),
        "l_sp": IntDistribution(1, 64, log=True),
        "ssim": CategoricalDistribution(["uniform", "global"]),
        "hash_size": CategoricalDistribution([4, 8]),
    }
    assert list(distributions(SearchSpace.parse("ssim-hash", {}))) == ["d_ssim", "t_hash", "n_b", "l_sp"]


OLD: dict[str, Any] = {
    "trials": 12, "t_ssim": {"min": 0.4, "max": 0.9}, "t_hash": {"min": 0.003}, "n_b": {"min": 2, "max": 10},
    "l_sp": {"max": 8}, "ssim": ["global", "uniform"], "count_rule": ["per_query"], "hash_size": 4,
    "parts": {"search": 0.5, "certify": 0.3, "test": 0.2}, "grid": {"t_ssim": 6},
}  # fmt: skip


def test_a_section_of_0_1_0_is_read_as_todays() -> None:
    """The parameters of the one kind that there was are in the section itself, and the splits are its parts."""
    names = ["t_ssim", "t_hash", "n_b", "l_sp", "ssim", "count_rule", "hash_size"]
    new = {key: value for key, value in OLD.items() if key not in (*names, "parts")}
    new |= {"kind": "ssim-hash", "space": {name: OLD[name] for name in names}}
    new["splits"] = {"search": 0.5, "calibration": 0.3, "test": 0.2}
    old = tiny_study(tuning=OLD)
    assert old.tuning == Tuning.model_validate(new)
    space = old.tuning.search_space
    assert space.bounds == {"t_ssim": (0.4, 0.9), "t_hash": (0.003, 0.3), "n_b": (2, 10), "l_sp": (1, 8)}
    assert space.choices == {"ssim": ("global", "uniform"), "count_rule": ("per_query",), "hash_size": (4,)}
    assert old.tuning.grid == {"t_ssim": 6, "t_hash": 32}
    assert old.tuning.splits.calibration == 0.3


@pytest.mark.parametrize(
    "tuning", [OLD, {"scope": "client", "view": {"size": 14, "colour": "grey"}, "space": {"l_sp": {"min": 3}}}, {}]
)
def test_what_is_written_is_read_back_the_same(tuning: dict[str, Any]) -> None:
    study = tiny_study(tuning=tuning)
    written = study.to_toml()
    assert "parts" not in written["tuning"]
    assert not set(written["tuning"]) & {*FilterConfig.params, *FilterConfig.choices}
    again = Study.parse(written)
    assert again == study
    assert again.tuning.search_space == study.tuning.search_space
    assert again.fingerprint == study.fingerprint


def test_scope_and_view_are_those_of_every_configuration() -> None:
    space = Tuning.model_validate({"scope": "client", "view": {"size": [7, 14]}}).search_space
    config = space.config({"d_ssim": 0.1, "t_hash": 0.1, "n_b": 2, "l_sp": 3})
    assert config == FilterConfig(0.9, 0.1, 2, 3, scope="client", view=View((7, 14)))
    assert {(one.scope, one.view) for one in space.corners()} == {("client", View((7, 14)))}


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        (
            {"t_ssim": {"max": 0.9}, "space": {"t_ssim": {"max": 0.8}}},
            "tuning.t_ssim: is also in .tuning.space. .expected once",
        ),
        ({"scope": "day"}, "tuning.scope = 'day'"),
        ({"view": {"size": 0}}, "tuning.view.size = 0: must be a whole number of at least 1"),
        ({"view": {"colour": "sepia"}}, "tuning.view.colour = 'sepia': must be one of as-is, grey"),
        ({"space": {"t_ssim": 0.9}}, "tuning.space.t_ssim = 0.9: must be a table such as"),
        ({"space": {"ssim": "local"}}, "tuning.space.ssim: 'local' is not a valid value .accepted: global, uniform"),
        (
            {"space": {"hash_size": 0}},
            "tuning.space.hash_size: 0 is not a valid value .accepted: a whole number from 1",
        ),
        ({"grid": {"t_ssim": 1}}, "tuning.grid.t_ssim = 1"),
    ],
)
def test_what_is_no_space_is_refused_by_its_key(tuning: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        tiny_study(tuning=tuning)
