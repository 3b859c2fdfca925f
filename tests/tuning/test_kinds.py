"""Kinds of detectors other than the paper's filter: the conformance suite and the registry."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import IntDistribution

from mifsim.defense import DetectorConfig, FilterConfig, RecordedSessions, View, read_config
from mifsim.defense.kinds import read_cells
from mifsim.defense.space import SearchSpace
from mifsim.errors import RunError, UserError
from mifsim.registry import registry
from mifsim.study import Study, Tuning
from mifsim.testing.detectors import DetectorConformance
from tests.tuning.kinds import (
    KINDS,
    AllowanceConfig,
    BrightConfig,
    LiveAllowanceConfig,
    StuckConfig,
    TenthsConfig,
)
from tests.tuning.sample_traces import ATTACK, hashes_of, random_traces, trace_set
from tests.tuning.studies import (
    FormulaBackend,
    assert_live_matches_replay,
    digits,
    formula_model,
    formula_victim,
    tiny_study,
)
from tuning.certify import certify, conservative, order_of_testing
from tuning.live import LiveReplay
from tuning.objectives import evaluate
from tuning.proposals import STARTUP_TRIALS, Proposals
from tuning.reference_front import grid_front, has_reference, reference_front
from tuning.replay import replay, replay_swept, totals
from tuning.space import distributions
from tuning.tracedata import SPLITS, TraceSet
from tuning.traces import load, record, recording_specs
from tuning.trials import TrialEvaluator, TrialResult

pytestmark = pytest.mark.usefixtures("kinds")

REACHABLE = {"false_positive_limit": 0.6, "confidence": 0.8, "false_positive_budget": 0.9}
"""Limits that a handful of sessions can certify."""
ALLOWANCES = (1, 2, 3, 5, 8, 9, 25, 26)


def kind_study(kind: str, filters: list[dict[str, Any]] | None = None, **changes: Any) -> Study:
    """Return the tiny study, which calibrates the given kind and has further users that also send invalid images."""
    table = {
        "tuning": {"kind": kind, "trials": 12, **REACHABLE},
        "filters": filters or [],
        "users": [*tiny_study().to_toml()["users"], {"user": "spoilt", "sessions": 12}],
    }
    return tiny_study(**{**table, **changes})


def record_traces(study: Study, folder: Path) -> TraceSet:
    """Record the sessions of a study; return their traces."""
    return load(record(study, digits(study), formula_victim(folder), FormulaBackend()).path, study)


class CountingModel:
    """Prediction function of the formula that counts its calls."""

    def __init__(self, study: Study) -> None:
        self.calls = 0
        self._predict = formula_model(study, digits(study), None)

    def __call__(self, *batch: Any) -> Any:
        self.calls += 1
        return self._predict(*batch)


def with_brightness(traces: TraceSet) -> TraceSet:
    """Return the traces with a recording of brightness that contains the values of their hashes."""
    brightness = RecordedSessions(traces.offsets, traces.valid, {"mean": hashes_of(traces)})
    specs = [config.recording_spec() for config in (BrightConfig(0.5, 1), TenthsConfig(6, 1))]
    return replace(traces, recordings=dict.fromkeys(specs, brightness))


def random_brightness_traces(seed: int) -> TraceSet:
    """Return random traces with recorded brightness that contain an attack session and an honest session."""
    return next(
        with_brightness(traces)
        for extra in itertools.count()
        if (traces := random_traces(np.random.default_rng([seed, extra]))).attack_groups and traces.honest_groups
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_replay_of_an_allowance_counts_valid_queries(seed: int, queries: int) -> None:
    traces = random_traces(np.random.default_rng(seed))
    outcome = replay(traces, AllowanceConfig(queries))
    for s in range(traces.sessions):
        valid, at = 0, 0
        for number, q in enumerate(range(*traces.offsets[s : s + 2]), start=1):
            valid += bool(traces.valid[q])
            if valid == queries and not at:
                at = number
        assert outcome.blocked_at[s] == at
        assert outcome.nearness[s] == min(1.0, (valid + 1) / queries)


@pytest.mark.usefixtures("invalid_image_users", "empty_cache")
@pytest.mark.parametrize("more", [{}, {"scope": "client"}, {"view": {"size": 14, "colour": "grey"}}])
def test_replay_matches_a_live_run_session_by_session(tmp_path: Path, more: dict[str, Any]) -> None:
    filters = [
        {"name": f"{cls.kind} {limit}", "kind": cls.kind, name: limit, **more}
        for cls, name, limits in ((AllowanceConfig, "queries", ALLOWANCES), (StuckConfig, "repeats", (1, 2, 3, 7)))
        for limit in limits
    ]
    filters += [
        {"name": f"test-bright {level} {limit}", "kind": "test-bright", "level": level, "limit": limit, **more}
        for level, limit in ((0.0, 1), (0.1, 1), (0.1, 4), (0.12, 2), (1.0, 1))
    ]
    study = kind_study("test-allowance", [*tiny_study().to_toml()["filters"], *filters])
    traces = record_traces(study, tmp_path)
    assert (~traces.valid).sum() == 12 * 8
    expected = assert_live_matches_replay(study, traces, tmp_path / "live")
    blocked = {item.name: 0 for item in study.filters}
    for name, query in expected.items():
        blocked[name.partition("@")[2]] += query is not None
    assert blocked["test-allowance 1"] == traces.sessions
    assert blocked["test-allowance 26"] == 0
    assert 0 < blocked["test-allowance 8"] < traces.sessions
    assert 0 < blocked["test-stuck 3"] < traces.sessions
    assert blocked["test-bright 0.0 1"] == traces.sessions
    assert 0 < blocked["test-bright 0.1 4"] < traces.sessions
    assert blocked["test-bright 1.0 1"] == 0
    # An invalid query precedes each valid one, so the eighth valid query is the sixteenth query.
    assert {query for name, query in expected.items() if name.startswith("spoilt") and "allowance 8" in name} == {16}


@pytest.mark.usefixtures("invalid_image_users", "empty_cache")
def test_only_validity_is_recorded_for_a_kind_without_columns(tmp_path: Path) -> None:
    study = kind_study("test-allowance")
    assert recording_specs(study) == recording_specs(kind_study("test-live-allowance")) == ()
    traces = record_traces(study, tmp_path)
    assert traces.recordings == {}
    sends_invalid_images = traces.group == traces.groups.index("spoilt")
    for s in range(traces.sessions):
        valid = traces.valid[slice(*traces.offsets[s : s + 2])].tolist()
        assert valid == ([False, True] * 8 if sends_invalid_images[s] else [True] * len(valid))
    with pytest.raises(ValueError, match=r"no recording fits FilterConfig.* \(available: none\)"):
        replay(traces, FilterConfig(0.5, 0.5, 1, 1))


@pytest.mark.usefixtures("invalid_image_users", "empty_cache")
def test_one_recording_contains_the_columns_of_several_kinds(tmp_path: Path) -> None:
    study = kind_study("test-stuck", tiny_study().to_toml()["filters"])
    traces = record_traces(study, tmp_path)
    assert [spec.kind for spec in traces.recordings] == ["ssim-hash", "test-stuck"]
    labels = traces.recorded(StuckConfig(3)).columns["label"]
    assert labels.dtype == np.int64
    assert not labels.flags.writeable
    assert (labels[~traces.valid] == 0).all()
    assert len(set(labels[traces.valid].tolist())) > 1
    assert set(traces.recorded(FilterConfig(0.5, 0.5, 1, 1)).columns) == {"hash", "ssim_global", "ssim_uniform"}


@pytest.mark.parametrize("cls", [AllowanceConfig, BrightConfig])
def test_a_session_without_answers_leaks_nothing(cls: type[DetectorConfig]) -> None:
    """The first query of both attack sessions is refused; the preceding row of the recording is of another session."""
    first = AllowanceConfig(1) if cls is AllowanceConfig else BrightConfig(0.0, 1)
    tables, means = [np.full((2, 1), np.nan), np.full((1, 1), np.nan)], [np.full(2, 0.5), np.full(1, 0.5)]
    leak = np.array([0.25, 0.75, 0.5])
    traces = with_brightness(trace_set(tables, means, group=np.array([ATTACK] * 2), leak=leak))
    outcome = replay(traces, first)
    assert outcome.blocked_at.tolist() == [1, 1]
    assert totals(traces, outcome.blocked_at).leak.tolist() == [0, 0]
    second = AllowanceConfig(2) if cls is AllowanceConfig else BrightConfig(0.0, 2)
    assert totals(traces, replay(traces, second).blocked_at).leak.tolist() == [0.25 + 0.5, 0]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.25, 0.5, 0.9]), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_swept_replay_matches_the_replay_of_each_limit(seed: int, level: float, most: int) -> None:
    traces = random_brightness_traces(seed)
    swept = replay_swept(traces, BrightConfig(level, 1), {"limit": most})
    assert swept.blocked.shape == (4, most)
    for limit in range(1, most + 1):
        one = totals(traces, replay(traces, BrightConfig(level, limit)).blocked_at)
        for name in ("blocked", "queries", "leak"):
            assert getattr(swept, name)[:, limit - 1].tolist() == pytest.approx(getattr(one, name).tolist())


@pytest.mark.usefixtures("invalid_image_users", "empty_cache")
def test_live_replay_gives_the_same_outcomes_as_replay(tmp_path: Path) -> None:
    study = kind_study("test-live-allowance")
    traces, predict = record_traces(study, tmp_path), CountingModel(study)
    live = LiveReplay(study, predict, digits(study))
    for queries in ALLOWANCES:
        for split in SPLITS:
            part = traces.of_split(split)
            expected, found = (
                replay(part, AllowanceConfig(queries)),
                live(part, LiveAllowanceConfig(queries)),
            )
            assert found.blocked_at.dtype == expected.blocked_at.dtype
            assert found.blocked_at.tolist() == expected.blocked_at.tolist()
            assert found.nearness.tolist() == expected.nearness.tolist()


@pytest.mark.usefixtures("invalid_image_users", "empty_cache")
def test_live_replay_runs_a_session_once_and_never_for_a_kind_with_replay(tmp_path: Path) -> None:
    study = kind_study("test-live-allowance")
    traces, predict = record_traces(study, tmp_path), CountingModel(study)
    live = LiveReplay(study, predict, digits(study))
    live(traces, AllowanceConfig(5))
    assert predict.calls == 0
    first = live(traces.of_split("search"), LiveAllowanceConfig(5))
    once = predict.calls
    assert once > 0
    again = live(traces.of_split("search"), LiveAllowanceConfig(5))
    assert again.blocked_at.tolist() == first.blocked_at.tolist()
    assert predict.calls == once
    live(traces, LiveAllowanceConfig(5))
    assert predict.calls > once  # sessions of the other splits run now
    with pytest.raises(NotImplementedError, match="'test-live-allowance' defines no replay"):
        replay(traces, LiveAllowanceConfig(5))


@pytest.mark.usefixtures("empty_cache")
def test_the_error_names_a_client_that_fails_live(tmp_path: Path) -> None:
    study = kind_study("test-live-allowance", users=tiny_study().to_toml()["users"])
    traces = record_traces(study, tmp_path)

    def broken(self: object, image: object) -> object:
        raise ZeroDivisionError("no detector")

    @dataclass(frozen=True)
    class Broken(LiveAllowanceConfig):
        def new_detector(self) -> Any:
            return type("BrokenDetector", (), {"count": 0, "limit": 1, "blocked": False, "check": broken})()

    with pytest.raises(RunError, match=r"client .* failed: DetectorError: .*check failed at query 1: ZeroDivision"):
        LiveReplay(study, CountingModel(study), digits(study))(traces, Broken(3))


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


def test_conservative_candidates_allow_more_queries() -> None:
    assert conservative([AllowanceConfig(5)]) == tuple(map(AllowanceConfig, (5, 6, 7, 8, 10, 13)))
    found = conservative([AllowanceConfig(5), AllowanceConfig(7)])
    assert found[:2] == (AllowanceConfig(5), AllowanceConfig(7))
    assert [one.queries for one in found[2:]] == [6, 8, 10, 13, 9, 12, 15]
    assert AllowanceConfig(6).stricter(2.0) == AllowanceConfig(3)
    assert AllowanceConfig(5).stricter(0.5) == AllowanceConfig(10)
    assert AllowanceConfig(1).stricter(3.0) == AllowanceConfig(1)
    space = SearchSpace.parse("test-allowance", {"queries": {"max": 8}})
    assert [one for one in conservative([AllowanceConfig(5)]) if space.contains(one)] == [
        AllowanceConfig(queries) for queries in (5, 6, 7, 8)
    ]


def traces_of_lengths(split: int, honest: list[int]) -> TraceSet:
    """Return five attack sessions of 20 queries, and honest sessions of the given lengths; all queries are valid."""
    all_lengths = [20] * 5 + honest
    group = np.repeat([ATTACK, 1], [5, len(honest)])
    hashes = [np.full(length, 0.5) for length in all_lengths]
    clients = np.array([f"{split}-{number}" for number in range(len(all_lengths))])
    tables = [np.full((length, 1), np.nan) for length in all_lengths]
    return trace_set(tables, hashes, group=group, clients=clients, split=np.full(len(all_lengths), split))


@pytest.mark.parametrize("cls", [AllowanceConfig, LiveAllowanceConfig])
def test_certify_chooses_the_fastest_certified_candidate(cls: type[LiveAllowanceConfig]) -> None:
    """On the search split, 2 of 50 honest sessions have 6 queries; on the held-out split, 1 of 300 has 8 queries.

    On the held-out split, an allowance of 9 blocks no session (p = 0.99^300 = 0.049); one of 7 or 4 blocks 1 (p = 0.2).
    On the search split, 7 and 9 block no session, but 7 is nearer to it: the longest sessions lack one query.
    """
    search, held_out = traces_of_lengths(0, [3] * 48 + [6] * 2), traces_of_lengths(1, [3] * 299 + [8])

    def run(traces: TraceSet, config: DetectorConfig) -> Any:
        return replay(traces, AllowanceConfig(config.queries))  # type: ignore[attr-defined]

    candidates = [cls(queries) for queries in (4, 7, 9)]
    order, queries = order_of_testing(search, candidates, {1: 0.01}, replay=run)
    assert order == (2, 1, 0)
    assert queries.tolist() == [4, 7, 9]
    found = certify(search, held_out, candidates, 0.01, replay=run)
    assert found.order == order
    assert found.blocked.tolist() == [[1], [1], [0]]
    assert found.p == pytest.approx([0.99**300 + 3 * 0.99**299] * 2 + [0.99**300])
    assert found.certified.tolist() == [False, False, True]
    assert found.chosen == 2


def facts_of(run: Path) -> dict[str, Any]:
    """Return the facts about the calibration in a complete run."""
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    assert facts["status"] == "complete"
    found: dict[str, Any] = facts["tuning"]
    return found


def rows_of(run: Path, file: str, *omitted: str) -> list[dict[str, Any]]:
    """Return the rows of a table without the kind and the given columns."""
    rows = pq.read_table(run / f"{file}.parquet").to_pylist()
    return [{key: value for key, value in row.items() if key not in ("kind", *omitted)} for row in rows]


@pytest.mark.usefixtures("invalid_image_users")
def test_a_calibration_gives_the_same_result_with_and_without_replay(calibrate: Callable[..., Path]) -> None:
    filters = tiny_study().to_toml()["filters"][:1]
    runs = {
        cls: calibrate(kind_study(cls.kind, [*filters, {"name": "seven", "kind": cls.kind, "queries": 7}]), cls.kind)
        for cls in (AllowanceConfig, LiveAllowanceConfig)
    }
    for cls, run in runs.items():
        found = facts_of(run)
        assert found["kind"] == cls.kind
        assert found["parameters"] == {"queries": "the valid query that is refused"}
        assert found["without_replay"] == ([] if cls is AllowanceConfig else [cls.kind])
        assert not any(name.startswith(("reference", "hypervolume")) for name in found)
        chosen = read_config(found["chosen"])
        assert isinstance(chosen, cls)
        assert cls.load(run / "filter.toml") == chosen
        pareto = pq.read_table(run / "pareto.parquet").to_pandas()
        assert "reference" not in set(pareto["source"])
        assert {"search", "given"} <= set(pareto["source"])
        for row in pareto.to_dict("records"):
            config = read_cells(row["kind"], row["config"])
            if row["name"] == "third":  # a configuration of another kind, without this parameter
                assert isinstance(config, FilterConfig)
                assert np.isnan(row["param_queries"])
            else:
                assert isinstance(config, cls)
                assert row["param_queries"] == config.queries
        assert pq.read_schema(run / "trials" / "trials.parquet").field("param_queries").type == "int64"
        sessions = pq.read_table(run / "sessions").to_pandas()
        assert found["confirmed_sessions"] == len(sessions)
        assert set(sessions[sessions["filter"] == "seven"]["kind"]) == {cls.kind}
    one, other = runs.values()
    assert rows_of(one, "trials/trials", "elapsed_seconds") == rows_of(other, "trials/trials", "elapsed_seconds")
    for file in ("certification", "pareto"):
        assert rows_of(one, file) == rows_of(other, file)
    assert facts_of(one)["test"] == facts_of(other)["test"]


@pytest.mark.usefixtures("invalid_image_users")
def test_a_calibration_is_measured_against_the_reference_front_of_its_kind(calibrate: Callable[..., Path]) -> None:
    space = {"level": {"max": 0.03}, "limit": {"min": 8}}  # digits are dark, and attacks start from dark images
    run = calibrate(
        kind_study("test-bright", tuning={"kind": "test-bright", "trials": 30, "space": space, **REACHABLE})
    )
    found = facts_of(run)
    assert 0 < found["hypervolume_share"] <= 1
    assert found["reference_configs_tried"] > 5 * 5
    pareto = pq.read_table(run / "pareto.parquet").to_pylist()
    assert {"search", "reference"} <= {row["source"] for row in pareto}
    assert all(
        read_cells(row["kind"], row["config"]) == BrightConfig(row["param_level"], row["param_limit"]) for row in pareto
    )


@pytest.mark.usefixtures("invalid_image_users")
def test_a_given_filter_without_replay_runs_live_beside_a_search_with_replay(calibrate: Callable[..., Path]) -> None:
    filters = [
        {"name": "live", "kind": "test-live-allowance", "queries": 7},
        {"name": "replayed", "kind": "test-allowance", "queries": 7},
    ]
    study = kind_study("test-stuck", filters)
    run = calibrate(study)
    found = facts_of(run)
    assert found["without_replay"] == ["test-live-allowance"]
    rows = {row["name"]: row for row in pq.read_table(run / "pareto.parquet").to_pylist() if row["source"] == "given"}
    for column in ("queries_to_block", "false_positive_rate"):
        assert rows["live"][column] == rows["replayed"][column]
    assert rows["live"]["param_repeats"] is None
    assert found["test"]["live"] == found["test"]["replayed"]


@pytest.mark.usefixtures("invalid_image_users")
def test_closed_loop_attackers_and_a_kind_without_replay_are_compatible(calibrate: Callable[..., Path]) -> None:
    (plain,) = tiny_study().to_toml()["attacks"]
    attacks = [{**plain, "name": "plain"}, {**plain, "name": "rotating", "evasions": [{"rotate": {"sessions": 2}}]}]
    runs = [calibrate(kind_study(kind, attacks=attacks), kind) for kind in ("test-allowance", "test-live-allowance")]
    found = [facts_of(run) for run in runs]
    assert [one["closed_loop"] for one in found] == [["rotating"]] * 2
    assert [one["without_replay"] for one in found] == [[], ["test-live-allowance"]]
    trials = [rows_of(run, "trials/trials", "elapsed_seconds") for run in runs]
    assert trials[0] == trials[1]
    # The rotating attacker uses two sessions of as many queries as allowed, up to its budget; if its first query is
    # refused, it stops. It is never the faster one of the two attacks.
    for row in trials[0]:
        assert row["queries_to_block"] == (1 if row["param_queries"] == 1 else min(25, 2 * row["param_queries"]))


class TestConformance(DetectorConformance):
    """The kinds pass the same conformance suite as the kinds that mifsim contains."""

    @pytest.fixture(
        params=[
            AllowanceConfig(5),
            LiveAllowanceConfig(5),
            StuckConfig(2),
            BrightConfig(0.4, 3),
            TenthsConfig(5, 3),
            BrightConfig(0.4, 3, view=View((6, 5), "grey")),
        ],
        ids=repr,
    )
    def config(self, request: pytest.FixtureRequest) -> DetectorConfig:
        found: DetectorConfig = request.param
        return found


def test_a_forgotten_kind_is_unknown() -> None:
    assert {cls.kind for cls in KINDS} <= set(registry("detectors"))
    registry("detectors").forget(KINDS[0].__module__)
    with pytest.raises(UserError, match="kind = 'test-allowance'"):
        read_config({"kind": "test-allowance", "queries": 3})
    assert replace(AllowanceConfig(3), view={"size": 4}).view == View((4, 4))
