"""The search space of a study, its distributions in the sampler, and ``[tuning]`` sections written by mifsim 0.1.0."""

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


def test_distributions_cover_distances_of_parameters_and_values_of_choices() -> None:
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


SECTION_0_1_0: dict[str, Any] = {
    "trials": 12, "t_ssim": {"min": 0.4, "max": 0.9}, "t_hash": {"min": 0.003}, "n_b": {"min": 2, "max": 10},
    "l_sp": {"max": 8}, "ssim": ["global", "uniform"], "count_rule": ["per_query"], "hash_size": 4,
    "parts": {"search": 0.5, "certify": 0.3, "test": 0.2}, "grid": {"t_ssim": 6},
}  # fmt: skip


def test_a_section_of_0_1_0_equals_the_current_form() -> None:
    """Version 0.1.0 writes the parameters of its only kind into the section itself, and calls the splits ``parts``."""
    names = ["t_ssim", "t_hash", "n_b", "l_sp", "ssim", "count_rule", "hash_size"]
    new = {key: value for key, value in SECTION_0_1_0.items() if key not in (*names, "parts")}
    new |= {"kind": "ssim-hash", "space": {name: SECTION_0_1_0[name] for name in names}}
    new["splits"] = {"search": 0.5, "calibration": 0.3, "test": 0.2}
    old = tiny_study(tuning=SECTION_0_1_0)
    assert old.tuning == Tuning.model_validate(new)
    space = old.tuning.search_space
    assert space.bounds == {"t_ssim": (0.4, 0.9), "t_hash": (0.003, 0.3), "n_b": (2, 10), "l_sp": (1, 8)}
    assert space.choices == {"ssim": ("global", "uniform"), "count_rule": ("per_query",), "hash_size": (4,)}
    assert old.tuning.grid == {"t_ssim": 6, "t_hash": 32}
    assert old.tuning.splits.calibration == 0.3


@pytest.mark.parametrize(
    "tuning",
    [SECTION_0_1_0, {"scope": "client", "view": {"size": 14, "colour": "grey"}, "space": {"l_sp": {"min": 3}}}, {}],
)
def test_a_section_is_unchanged_after_writing_and_reading(tuning: dict[str, Any]) -> None:
    study = tiny_study(tuning=tuning)
    written = study.to_toml()
    assert "parts" not in written["tuning"]
    assert not set(written["tuning"]) & {*FilterConfig.params, *FilterConfig.choices}
    again = Study.parse(written)
    assert again == study
    assert again.tuning.search_space == study.tuning.search_space
    assert again.fingerprint == study.fingerprint


def test_every_configuration_has_the_scope_and_view_of_the_section() -> None:
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
def test_an_invalid_value_is_refused_by_its_key(tuning: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        tiny_study(tuning=tuning)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("space", {"t_ssim": {"min": 0.9, "max": 0.5}}, "tuning.space.t_ssim.max = 0.5 is less than min = 0.9"),
        ("space", {"t_ssim": {"max": 1.0}}, "tuning.space.t_ssim.min = 0.3, max = 1.0: must not reach 1"),
        ("space", {"t_ssim": {"min": -1.5}}, "tuning.space.t_ssim.min = -1.5: must be from -1 to 1"),
        ("space", {"t_hash": {"min": 0.0}}, "tuning.space.t_hash.min = 0.0: must be above 0"),
        ("space", {"n_b": {"min": 5, "max": 4}}, "tuning.space.n_b.max = 4 is less than min = 5"),
        ("space", {"l_sp": {"min": 0}}, "tuning.space.l_sp.min = 0: must be from 1 to 65536"),
        ("space", {"ssim": []}, "tuning.space.ssim = .*at least one value .accepted: global, uniform, gaussian"),
        ("space", {"ssim": ["global", "global"]}, "tuning.space.ssim = .*: each may be given once"),
        ("space", {"t_sim": {"max": 0.9}}, "tuning.space.t_sim: .* did you mean 't_ssim'"),
        ("n_b", {"min": 5, "max": 4}, "tuning.space.n_b.max = 4 is less than min = 5"),
        ("kind", "ssim-hsh", "tuning.kind = 'ssim-hsh': .* did you mean 'ssim-hash'"),
        ("kind", "none", "tuning.kind = 'none': has no parameter to search"),
        ("grid", {"l_sp": 5}, "tuning.grid.l_sp: not a parameter of the exhaustive search .accepted: t_ssim, t_hash"),
        ("splits", {"search": 0.5, "calibration": 0.5, "test": 0.5}, "add up to 1.5"),
        ("false_positive_limit", 0.0, "must be between 0 and 1, or a table of such numbers"),
        ("false_positive_limit", {"retries": 0.01}, "expected: every workload, which are independent, retries"),
        ("trails", 7, "did you mean 'trials'"),
    ],
)
def test_invalid_bounds_are_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        tiny_study(tuning={key: value})
