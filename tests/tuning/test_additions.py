"""Searches with and without the additions to the paper's filter: a leak and a separate count of exact repeats."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from mifsim.defense import FilterConfig
from mifsim.defense.kinds import read_cells
from mifsim.defense.space import SearchSpace
from mifsim.errors import StudyError
from mifsim.study import Study, Tuning, shipped_studies
from tests.tuning.sample_traces import random_traces, recording
from tests.tuning.studies import tiny_study
from tuning.certify import conservative
from tuning.objectives import evaluate
from tuning.params import param_facts, param_schema
from tuning.proposals import STARTUP_TRIALS, Proposals
from tuning.reference_front import grid_front, reference_front
from tuning.space import distributions
from tuning.traces import recording_specs
from tuning.trials import TrialResult

PAPER = ["t_ssim", "t_hash", "n_b", "l_sp"]
BOTH = {"leak": {"min": 0.01, "max": 0.4}, "repeats": {"min": 2, "max": 9}}


def test_a_search_contains_the_additions_only_if_the_study_names_them() -> None:
    plain, both = SearchSpace.parse("ssim-hash", {}), SearchSpace.parse("ssim-hash", BOTH)
    assert list(plain.bounds) == PAPER
    assert list(both.bounds) == [*PAPER, "leak", "repeats"]
    assert list(distributions(plain)) == ["d_ssim", "t_hash", "n_b", "l_sp"]
    assert distributions(both) == {
        **distributions(plain),
        "leak": FloatDistribution(0.01, 0.4, log=True),
        "repeats": IntDistribution(2, 9, log=True),
    }
    point = {"d_ssim": 0.1, "t_hash": 0.1, "n_b": 2, "l_sp": 3}
    assert plain.config(point) == FilterConfig(0.9, 0.1, 2, 3)
    config = FilterConfig(0.9, 0.1, 2, 3, leak=0.05, repeats=4)
    assert both.config({**point, "leak": 0.05, "repeats": 4}) == config
    assert both.point(config) == {**both.point(config), "leak": 0.05, "repeats": 4}
    assert both.contains(config)
    assert not plain.contains(config)
    assert not both.contains(FilterConfig(0.9, 0.1, 2, 3))
    assert {(one.leak, one.repeats) for one in both.corners()} == set(itertools.product((0.01, 0.4), (2, 9)))  # type: ignore[attr-defined]
    assert SearchSpace.parse("ssim-hash", both.to_dict()) == both
    one = SearchSpace.parse("ssim-hash", {"leak": {}})
    assert one.bounds["leak"] == (0.001, 0.5)
    assert "repeats" not in one.bounds
    assert {item.repeats for item in one.corners()} == {0}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ({"space": {"leak": 0.05}}, r"tuning.space.leak = 0.05: must be a table such as \{min = 0.001, max = 0.5\}"),
        ({"space": {"leak": {"min": 0.0}}}, "tuning.space.leak.min = 0.0: must be above 0, because the search is"),
        ({"space": {"leak": {"max": 1.0}}}, "tuning.space.leak.max = 1.0: must be from 0 to 0.99"),
        ({"space": {"repeats": {"min": 0}}}, "tuning.space.repeats.min = 0: must be from 1 to 65536"),
        (
            {"grid": {"leak": 3}},
            "tuning.grid.leak: not a parameter of the exhaustive search .accepted: t_ssim, t_hash.$",
        ),
        ({"leak": {"min": 0.1}}, "tuning.leak: unknown key"),
    ],
)
def test_invalid_bounds_of_an_addition_are_refused_and_named(tuning: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        tiny_study(tuning=tuning)


@pytest.mark.parametrize("name", shipped_studies())
def test_a_study_without_the_additions_is_written_as_before(name: str) -> None:
    """Therefore its digest, its recording and its tables are unchanged."""
    study = Study.load(name)
    tuning = study.to_toml()["tuning"]
    assert set(tuning["space"]) == {*PAPER, "ssim", "count_rule", "hash_size"}
    assert set(tuning["grid"]) == {"t_ssim", "t_hash"}
    assert not any({"leak", "repeats"} & set(item) for item in study.to_toml()["filters"])
    assert not any("repeats" in dict(spec.options) for spec in recording_specs(study))
    columns = [column.removeprefix("param_") for column in param_schema("trials", study.tuning.search_space).names]
    assert not {"leak", "repeats"} & {*columns, *param_facts(study.tuning.search_space)}


def test_a_study_with_the_additions_is_unchanged_after_writing_and_reading() -> None:
    study = tiny_study(tuning={"space": BOTH, "grid": {"leak": 3}})
    written = study.to_toml()
    assert written["tuning"]["space"]["leak"] == BOTH["leak"]
    assert written["tuning"]["grid"] == {"t_ssim": 32, "t_hash": 32, "leak": 3, "repeats": 4}
    assert Study.parse(written) == study
    assert Study.parse(written).fingerprint == study.fingerprint
    assert study.fingerprint != tiny_study(tuning={"space": {}}).fingerprint


def test_proposals_are_within_the_bounds_and_warm_starts_keep_the_additions() -> None:
    tuning = Tuning(space=BOTH, concurrent=1)
    proposals = Proposals(tuning, 0, 501)
    configs = []
    for number in range(STARTUP_TRIALS + 3):
        config = proposals.ask()
        assert isinstance(config, FilterConfig)
        assert tuning.search_space.contains(config)
        configs.append(config)
        estimates = ((7, 9, 0.01, 20.0),) if number == 5 else ()
        proposals.tell(number, TrialResult(400.0, 0.05, None, 10, estimates))
    assert len({(one.leak, one.repeats) for one in configs}) > 20
    assert replace(configs[5], n_b=7, l_sp=9) in configs[STARTUP_TRIALS:]


def test_each_conservative_copy_relaxes_an_addition_or_other_parameters_but_not_both() -> None:
    config = FilterConfig(0.9, 0.1, 5, 8, leak=0.05, repeats=4)
    copies = config.conservative((1.25, 2.0))
    plain = FilterConfig(0.9, 0.1, 5, 8).conservative((1.25, 2.0))
    assert [replace(one, leak=0.05, repeats=4) for one in plain] == copies[: len(plain)]
    rest = copies[len(plain) :]
    assert rest == [
        replace(config, leak=0.0625),
        replace(config, leak=0.1),
        *(replace(config, repeats=repeats) for repeats in (5, 6, 7, 9, 12)),
    ]
    assert FilterConfig(0.9, 0.1, 5, 8, leak=0.9).conservative((2.0,))[-1].leak == 0.99
    fixed = SearchSpace.parse("ssim-hash", {"leak": {"min": 0.05, "max": 0.05}})
    inside = [one for one in conservative([replace(config, repeats=0)]) if fixed.contains(one)]
    assert {one.leak for one in inside} == {0.05}  # type: ignore[attr-defined]
    assert len(inside) == 1 + len(FilterConfig(0.9, 0.1, 5, 8).conservative((1.1, 1.25, 1.5, 2.0, 3.0)))
    strict = config.stricter(2.0)
    assert (strict.leak, strict.repeats, strict.l_sp) == (0.025, 2, 4)
    assert FilterConfig(0.9, 0.1, 5, 8).stricter(2.0).to_dict() == {
        **FilterConfig(0.9, 0.1, 5, 8).to_dict(), "t_ssim": 1 - 2 * (1 - 0.9), "t_hash": 0.2, "l_sp": 4
    }  # fmt: skip


@pytest.mark.parametrize("rule", ["per_match", "per_query"])
def test_the_front_of_a_grid_equals_a_plain_search_through_all_configurations(rule: str) -> None:
    bounds = {"n_b": {"min": 1, "max": 4}, "l_sp": {"min": 1, "max": 5}, "leak": {}, "repeats": {}}
    space = SearchSpace.parse("ssim-hash", {**bounds, "count_rule": [rule]})
    lists = {"t_ssim": [0.25, 0.5], "t_hash": [0.1, 0.3], "leak": [0.1, 0.45], "repeats": [1, 3]}
    grid = ({"ssim": "global", "count_rule": rule, "hash_size": 8}, {k: np.array(v) for k, v in lists.items()})
    for seed in range(4):
        traces = random_traces(np.random.default_rng(seed), n_b_max=4, repeats=True)
        found = grid_front(traces, [grid], space, fpr_limit=0.6)
        # In the order of preference among equals that the docstring of `grid_front` promises: the least strict first.
        every = [
            FilterConfig(t_ssim, t_hash, n_b, l_sp, count_rule=rule, leak=leak, repeats=repeats)  # type: ignore[arg-type]
            for t_ssim in (0.5, 0.25)
            for t_hash in (0.1, 0.3)
            for leak in (0.45, 0.1)
            for repeats in (3, 1)
            for n_b in range(1, 5)
            for l_sp in range(5, 0, -1)
        ]
        assert found.tried == len(every)
        best: dict[tuple[float, ...], FilterConfig] = {}
        for config in every:
            done = evaluate(traces, config)
            if done.false_positive_rate <= 0.6:
                best.setdefault((done.false_positive_rate, done.queries), config)
        expected = {p: c for p, c in best.items() if not any(q != p and all(map(float.__le__, q, p)) for q in best)}
        assert dict(zip(map(tuple, found.points.tolist()), found.configs, strict=True)) == expected


def test_the_reference_front_covers_the_searched_additions() -> None:
    traces = random_traces(np.random.default_rng(3), n_b_max=4, repeats=True)
    small = {"n_b": {"max": 4}, "l_sp": {"max": 4}}
    for added, values in (
        ({}, [(0.0, 0)]),
        ({"leak": {"min": 0.05, "max": 0.05}}, [(0.05, 0)]),
        ({"leak": {"min": 0.1, "max": 0.4}}, [(0.1, 0), (0.2, 0), (0.4, 0)]),
        ({"repeats": {"min": 2, "max": 8}}, [(0.0, 2), (0.0, 4), (0.0, 8)]),
    ):
        tuning = Tuning(
            space={**small, **added},
            grid={"t_ssim": 3, "t_hash": 3, **dict.fromkeys(added, 3)},
            false_positive_budget=0.9,
        )
        space = tuning.search_space
        bounds = {name: space.bounds[name] for name in space.reference_steps}
        found = FilterConfig.reference_values(recording(traces), {"ssim": "global"}, bounds, tuning.grid)
        assert list(found) == list(bounds)
        grid = [found.get("leak", np.zeros(1)), found.get("repeats", np.zeros(1))]
        assert list(itertools.product(*(one.round(12).tolist() for one in grid))) == values
        front = reference_front(traces, tuning, lambda done, total: None)
        assert front.tried > 9 * 4 * 4 * len(values)
        assert all(space.contains(config) for config in front.configs)


def test_a_calibration_searches_certifies_and_confirms_the_additions(calibrate: Callable[..., Path]) -> None:
    """Every session of the live run ends as predicted, with recorded repeats of real images."""
    space = {
        "n_b": {"max": 8}, "l_sp": {"min": 2, "max": 8}, "t_ssim": {"max": 0.9}, "t_hash": {"min": 0.003},
        "leak": {"min": 0.05, "max": 0.3}, "repeats": {"min": 3, "max": 6}, "ssim": ["uniform"],
    }  # fmt: skip
    tuning = {
        "trials": 16, "space": space, "grid": {"t_ssim": 3, "t_hash": 3, "leak": 2, "repeats": 2},
        "false_positive_limit": 0.6, "false_positive_budget": 0.9, "confidence": 0.8,
    }  # fmt: skip
    filters = [
        {"name": "plain", "t_ssim": 0.8, "t_hash": 0.01, "n_b": 4, "l_sp": 3},
        {"name": "repeats", "t_ssim": 0.8, "t_hash": 0.01, "n_b": 4, "l_sp": 3, "repeats": 1},
        {"name": "leak", "t_ssim": 0.8, "t_hash": 0.01, "n_b": 4, "l_sp": 3, "leak": 0.2},
    ]
    run = calibrate(tiny_study(tuning=tuning, filters=filters))
    chosen = FilterConfig.load(run / "filter.toml")
    assert 0.05 <= chosen.leak <= 0.3
    assert 3 <= chosen.repeats <= 6
    for file in ("trials/trials", "pareto", "certification"):
        for row in pq.read_table(run / f"{file}.parquet").to_pylist():
            config = read_cells(row["kind"], row["config"])
            assert isinstance(config, FilterConfig)
            assert (row["param_leak"], row["param_repeats"]) == (config.leak, config.repeats)
    sessions = pq.read_table(run / "sessions").to_pylist()
    assert {row["filter"] for row in sessions} == {"calibrated", "plain", "repeats", "leak"}
    blocked = {(row["filter"], row["client_id"]): row["queries_to_block"] for row in sessions}
    assert any(at != blocked["plain", client] for (name, client), at in blocked.items() if name == "repeats")
    assert any(at != blocked["plain", client] for (name, client), at in blocked.items() if name == "leak")
