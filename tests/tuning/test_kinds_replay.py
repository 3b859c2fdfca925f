"""Recording and replay of kinds of detectors other than the paper's filter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense import DetectorConfig, FilterConfig
from tests.tuning.kind_studies import ALLOWANCES, kind_study, random_brightness_traces, record_traces, with_brightness
from tests.tuning.kinds import AllowanceConfig, BrightConfig, StuckConfig
from tests.tuning.sample_traces import ATTACK, random_traces, trace_set
from tests.tuning.studies import assert_live_matches_replay, tiny_study
from tuning.replay import replay, replay_swept, totals
from tuning.traces import recording_specs

pytestmark = pytest.mark.usefixtures("kinds")


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
