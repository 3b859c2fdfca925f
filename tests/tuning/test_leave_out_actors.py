"""Calibrations without each workload on Ray: the same as in one process, also if an actor is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import ray

from mifsim.errors import RunError
from mifsim.study import Study
from tests.tuning.sample_traces import random_traces
from tests.tuning.studies import serial_calibrations, tiny_study
from tuning import leave_out_actors
from tuning.leave_out import LeftOut
from tuning.leave_out_actors import Calibrator, calibrate_all
from tuning.tracedata import TraceSet
from tuning.trials import Trial

pytestmark = pytest.mark.usefixtures("local_ray")

USERS = ("users 1", "users 2", "users 3")


def three_workloads(n_b: int = 7) -> tuple[TraceSet, Study]:
    """Return random traces of three workloads in three splits, and a study of them."""
    tuning = {"trials": 12, "space": {"n_b": {"min": n_b, "max": n_b}}, "false_positive_budget": 0.5,
              "false_positive_limit": 0.5, "confidence": 0.6}  # fmt: skip
    users = [{"user": "independent", "name": name, "sessions": 30} for name in USERS]
    traces = random_traces(np.random.default_rng(4), sessions=150)
    split = np.where(traces.is_attack, 0, np.arange(150) % 3)
    return replace(traces, split=split), tiny_study(tuning=tuning, users=users)


def by_workload(events: Iterator[tuple[str, Trial | LeftOut]]) -> dict[str, list[object]]:
    """Return the events of each workload, without times."""
    found: dict[str, list[object]] = {name: [] for name in USERS}
    for workload, event in events:
        found[workload].append(replace(event, elapsed_seconds=0.0) if isinstance(event, Trial) else event)
    return found


def test_the_calibrations_on_ray_are_those_in_one_process() -> None:
    traces, study = three_workloads()
    serial = by_workload(serial_calibrations(traces, study, dict.fromkeys(USERS, ())))
    assert [len(events) for events in serial.values()] == [13] * 3
    assert len({str(events[-1]) for events in serial.values()}) == 3
    assert by_workload(calibrate_all(traces, study, dict.fromkeys(USERS, ()))) == serial

    finished = [event for event in serial["users 2"][:5] if isinstance(event, Trial)]
    resumed = by_workload(calibrate_all(traces, study, {"users 2": finished}))
    assert resumed == {"users 1": [], "users 2": serial["users 2"][5:], "users 3": []}


def test_a_lost_actor_is_restarted_and_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    traces, study = three_workloads()
    serial = by_workload(serial_calibrations(traces, study, dict.fromkeys(USERS, ())))
    monkeypatch.setattr(leave_out_actors, "STEP_SECONDS", 0.0)  # one trial in each call
    actor = Calibrator.remote()
    events = leave_out_actors._run([actor], (traces, study, []), {name: [] for name in USERS})

    def with_losses() -> Iterator[tuple[str, Trial | LeftOut]]:
        for number, event in enumerate(events):
            if number in (4, 20):  # within the first and the second calibration
                ray.kill(actor, no_restart=False)
            yield event

    assert by_workload(with_losses()) == serial


def test_a_failing_calibration_names_the_workload() -> None:
    traces, study = three_workloads(n_b=9)  # the recording is too short for n_b = 9
    with pytest.raises(RunError, match="calibration without 'users 1': ValueError: "):
        list(calibrate_all(traces, study, {"users 1": ()}))
