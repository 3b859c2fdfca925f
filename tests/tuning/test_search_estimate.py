"""The estimate of the searches by replay, before they start."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from mifsim.study import Study
from tests.tuning.kind_studies import REACHABLE
from tests.tuning.studies import tiny_study
from tuning import search_estimate

COMPARE = {"compare": [{"name": "quota", "kind": "quota", "trials": 50}], "leave_out": True}


@pytest.mark.parametrize(("seconds", "expected"), [(0.25, "176 trials of the search by replay: about 22 s"), (0.1, "")])
def test_all_trials_count_if_they_take_long(
    seconds: float,
    expected: str,
    calibrate: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """42 trials, as many without each of the two workloads, and 50 of the other detector, on 2 CPUs: 22 s or 9 s."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(search_estimate, "LEAST_SECONDS", 20)
    monkeypatch.setattr(search_estimate.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    measured: list[Study] = []
    monkeypatch.setattr(
        search_estimate,
        "seconds_of_trial",
        lambda traces, study: measured.append(study) or seconds,  # type: ignore[func-returns-value]
    )
    space = tiny_study().tuning.model_dump(include={"space", "grid"})
    study = tiny_study(tuning={**space, **REACHABLE, "trials": 42, **COMPARE})
    calibrate(study)
    assert [one.tuning.kind for one in measured] == ["ssim-hash", "quota"]
    found = [line for line in caplog.messages if "by replay" in line]
    assert found == ([f"{expected} on 2 CPUs"] if expected else [])


def test_some_trials_are_measured_before_the_search(
    calibrate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    real, measured = search_estimate.seconds_of_trial, []
    monkeypatch.setattr(
        search_estimate, "seconds_of_trial", lambda traces, study: measured.append(real(traces, study)) or measured[-1]
    )
    calibrate(
        tiny_study(tuning={**tiny_study().tuning.model_dump(include={"space", "grid"}), **REACHABLE, "trials": 12})
    )
    assert len(measured) == 1
    assert measured[0] > 0
    assert not [line for line in caplog.messages if "by replay" in line]  # 12 trials of milliseconds
