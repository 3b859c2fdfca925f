"""The processor time of the checks of a user's model, as a share of the recording that follows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mifsim.data import load_data
from mifsim.run.estimate import queries_of
from mifsim.run.sessions import make_backend
from mifsim.study import Study
from mifsim.victims import VictimConfig, prepare_victim
from tuning.trace_loading import load
from tuning.traces import record

SESSIONS = 200
"""Sessions of each workload that are recorded here."""


def test_the_checks_of_a_model_take_a_small_share_of_a_recording(
    measured: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Study.load("calibrate-digits")
    data = load_data(whole.data)
    model = tmp_path / "digits.keras"
    model.write_bytes(prepare_victim(data, whole.victim).source().content)
    prepare_victim(data, VictimConfig(file=model))  # imports and compiles what every process needs once
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "cache"))  # without the result of this check

    started = time.process_time()
    victim = prepare_victim(data, VictimConfig(file=model))
    checks = time.process_time() - started
    assert victim.facts["test_images"] == 1000

    plain = whole.to_toml()
    plain["victim"] = {"file": str(model)}
    plain["leakage"] = {"enabled": False}
    plain["tuning"].pop("compare")
    for users in plain["users"]:
        users["sessions"] = SESSIONS
    study = Study.parse(plain)
    started = time.process_time()
    recording = record(study, data, victim, make_backend("in-process"))
    recorded = time.process_time() - started
    queries = int(load(recording.path, study).offsets[-1])
    expected = queries_of(whole, len(data.class_names), 1)
    measured(f"checks of a keras model, share of recording {queries:,} queries", checks / recorded)
    measured(
        f"the same, of the demo's recording (up to {expected:,} queries, at the same cost of a query)",
        checks / (recorded * expected / queries),
        at_most=0.05,
    )
    measured("images asked by the checks, share of the demo's queries", victim.facts["asked_images"] / expected)
