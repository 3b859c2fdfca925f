"""Kinds of detectors without a replay: they run live in each trial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mifsim.errors import RunError
from mifsim.study import Study
from mifsim.study.splitting import SPLITS
from tests.tuning.kind_studies import ALLOWANCES, kind_study, record_traces
from tests.tuning.kinds import AllowanceConfig, LiveAllowanceConfig
from tests.tuning.studies import digits, formula_model, tiny_study
from tuning.live import LiveReplay
from tuning.replay import replay

pytestmark = pytest.mark.usefixtures("kinds")


class CountingModel:
    """Prediction function of the formula that counts its calls."""

    def __init__(self, study: Study) -> None:
        self.calls = 0
        self._predict = formula_model(study, digits(study), None)

    def __call__(self, *batch: Any) -> Any:
        self.calls += 1
        return self._predict(*batch)


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
