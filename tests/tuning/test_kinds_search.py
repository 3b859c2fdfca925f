"""The search and the reference front of kinds of detectors other than the paper's filter."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import IntDistribution

from mifsim.defense import DetectorConfig
from mifsim.defense.space import SearchSpace
from mifsim.errors import UserError
from mifsim.study import Tuning
from tests.tuning.kind_studies import random_brightness_traces
from tests.tuning.kinds import AllowanceConfig, BrightConfig
from tests.tuning.sample_traces import random_traces
from tests.tuning.studies import tiny_study
from tuning.objectives import evaluate
from tuning.proposals import STARTUP_TRIALS, Proposals
from tuning.reference_front import grid_front, has_reference, reference_front
from tuning.replay import replay
from tuning.space import distributions
from tuning.trials import TrialEvaluator, TrialResult

pytestmark = pytest.mark.usefixtures("kinds")


@pytest.mark.parametrize("kind", ["test-allowance", "test-live-allowance"])
def test_proposals_use_the_search_space_of_the_kind(kind: str) -> None:
    tuning = Tuning.model_validate({"kind": kind, "space": {"queries": {"min": 2, "max": 9}}, "scope": "client"})
    space = tuning.search_space
    assert distributions(space) == {"queries": IntDistribution(2, 9, log=True)}
    assert tuning.space == {"queries": {"min": 2, "max": 9}}
    assert tuning.grid == {}
    assert not has_reference(space)
    assert has_reference(Tuning().search_space)
    proposals, seen = Proposals(tuning, 3, 25), []
    for number in range(STARTUP_TRIALS + 12):
        config = proposals.ask()
        assert config is not None
        assert space.contains(config)
        assert (config.kind, config.scope) == (kind, "client")
        assert space.config(space.point(config)) == config
        seen.append(config.queries)  # type: ignore[attr-defined]
        proposals.tell(number, _result_of(config))
    assert set(seen) == set(range(2, 10))


def _result_of(config: DetectorConfig) -> TrialResult:
    queries = config.queries  # type: ignore[attr-defined]
    return TrialResult(float(queries), 0.5 / queries, None, 10)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"space": {"querys": {"max": 3}}}, "tuning.space.querys: .*did you mean 'queries'"),
        ({"space": {"queries": {"min": 0}}}, "tuning.space.queries.min = 0: must be at least 1"),
        ({"space": {"queries": {"max": 2.5}}}, "tuning.space.queries.max = 2.5: must be a whole number"),
        ({"grid": {"queries": 5}}, "tuning.grid.queries: .*'test-allowance' has no exhaustive search"),
        ({"t_ssim": {"max": 0.9}}, r"tuning.t_ssim: .*put parameters into \[tuning.space\]"),
    ],
)
def test_invalid_bounds_of_a_kind_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_study(tuning={"kind": "test-allowance", **table})


def test_a_trial_of_a_kind_without_swept_parameters_has_no_estimates() -> None:
    traces = random_traces(np.random.default_rng(0), sessions=80)
    tuning = Tuning(kind="test-allowance", false_positive_budget=1.0)
    found = TrialEvaluator(traces, tuning).evaluate(AllowanceConfig(7))
    expected = evaluate(traces, AllowanceConfig(7))
    assert found.estimates == ()
    assert (found.queries, found.false_positive_rate) == (expected.queries, expected.false_positive_rate)
    assert (
        expected.queries
        == np.where(
            (at := replay(traces, AllowanceConfig(7)).blocked_at[traces.is_attack]) > 0,
            at,
            traces.budget[traces.is_attack],
        ).mean()
    )


@pytest.mark.parametrize("seed", range(3))
def test_no_configuration_on_the_coarse_grid_beats_the_reference_front(seed: int) -> None:
    """The front tries levels on a coarse and a finer grid, and all limits."""
    traces = random_brightness_traces(seed)
    space = {"level": {"min": 0.0, "max": 0.8}, "limit": {"min": 2, "max": 9}}
    tuning = Tuning(kind="test-bright", space=space, grid={"level": 4}, false_positive_budget=0.9)
    assert has_reference(tuning.search_space)
    done: list[tuple[int, int]] = []
    found = reference_front(traces, tuning, lambda *counts: done.append(counts))
    assert found.configs
    for config, point in zip(found.configs, found.points, strict=True):
        assert tuning.search_space.contains(config)
        one = evaluate(traces, config)
        assert (one.false_positive_rate, one.queries) == tuple(point)
    for level, limit in itertools.product(np.linspace(0, 0.8, 4).tolist(), range(2, 10)):
        one = evaluate(traces, BrightConfig(level, limit))
        if one.false_positive_rate <= 0.9:
            assert (found.points <= [one.false_positive_rate, one.queries]).all(axis=1).any()
    assert done[-1][0] == done[-1][1] == found.tried // 8
    assert found.tried > 4 * 8


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_front_keeps_the_least_strict_of_equal_configurations(seed: int, leakage: bool) -> None:
    """The highest level is preferred, then the highest limit: both block less."""
    traces = random_brightness_traces(seed)
    levels = [0.0, 0.3, 0.6]
    space = SearchSpace.parse("test-bright", {"limit": {"min": 2, "max": 5}})
    found = grid_front(traces, [({}, {"level": np.array(levels)})], space, leakage=leakage, fpr_limit=0.5)
    assert found.tried == 12
    best: dict[tuple[float, ...], BrightConfig] = {}
    for config in itertools.starmap(BrightConfig, itertools.product(levels[::-1], (5, 4, 3, 2))):
        done = evaluate(traces, config)
        if done.false_positive_rate <= 0.5:
            point = (done.false_positive_rate, done.queries, *([done.leak] if leakage else []))
            best.setdefault(point, config)
    expected = {p: c for p, c in best.items() if not any(q != p and all(map(float.__le__, q, p)) for q in best)}
    assert dict(zip(map(tuple, found.points.tolist()), found.configs, strict=True)) == expected


def test_a_warm_start_candidate_uses_the_best_estimate_of_a_swept_parameter() -> None:
    proposals, configs = Proposals(Tuning(kind="test-bright", concurrent=1), 0, 501), []
    for number in range(STARTUP_TRIALS + 2):
        config = proposals.ask()
        assert config is not None
        configs.append(config)
        estimates = ((7, 0.01, 20.0), (3, 0.01, 30.0)) if number == 5 else ()
        proposals.tell(number, TrialResult(400.0, 0.05, None, 10, estimates))
    assert replace(configs[5], limit=7) in configs[STARTUP_TRIALS:]  # type: ignore[call-arg]


def test_the_reference_front_tries_only_whole_numbers_of_a_whole_parameter() -> None:
    traces = random_brightness_traces(7)
    tuning = Tuning(kind="test-tenths", grid={"tenths": 3}, false_positive_budget=1.0)
    found = reference_front(traces, tuning, lambda done, total: None)
    assert found.configs
    assert found.tried % 12 == 0
    assert 3 < found.tried // 12 <= 3 + 10
    for config, point in zip(found.configs, found.points, strict=True):
        one = evaluate(traces, config.bright)  # type: ignore[attr-defined]
        assert (one.false_positive_rate, one.queries) == tuple(point)
    proposals = Proposals(tuning, 0, 501)
    for number in range(8):
        config = proposals.ask()
        assert config is not None  # a value that is not a whole number raises an error
        assert tuning.search_space.config(tuning.search_space.point(config)) == config
        proposals.tell(number, TrialResult(400.0, 0.05, None, 10))
