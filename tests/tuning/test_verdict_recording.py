"""A recording of verdicts: what each configuration does, from detectors that are not asked again once they block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.defense import DetectorConfig, ModelAnswer
from mifsim.defense.kinds import covers, merged
from mifsim.defense.quota import QuotaConfig
from mifsim.defense.verdict_recording import MOST, VerdictRecorder, blocked_at, verdict_specs
from mifsim.run.fits import fit_detectors
from mifsim.server.observations import SessionRecorder
from tests.tuning.studies import FormulaBackend, digits, formula_victim, tiny_study
from tuning.replay import replay
from tuning.trace_loading import load
from tuning.traces import record

FILTERS: list[dict[str, Any]] = [
    {"name": "ssim-hash", "t_ssim": 0.9, "t_hash": 0.02, "n_b": 3, "l_sp": 6},
    {"name": "smaller", "t_ssim": 0.8, "t_hash": 0.05, "n_b": 5, "l_sp": 3, "ssim": "uniform", "view": {"size": 12}},
    {"name": "evidence", "kind": "evidence", "noisy_radius": 0.01, "noisy_limit": 3.0},
    {"name": "blacklight", "kind": "blacklight", "threshold": 40, "limit": 3, "memory": 4},
    {"name": "osd-l2", "kind": "osd-l2", "k": 2, "threshold": 6.0, "limit": 3, "memory": 5},
    {"name": "prada", "kind": "prada", "min_distances": 3, "delta": 0.99, "limit": 2},
    {"name": "quota", "kind": "quota", "queries": 6},
    {"name": "both", "kind": "any-of", "of": [{"kind": "evidence", "noisy_radius": 0.01, "noisy_limit": 3.0},
                                              {"kind": "quota", "queries": 9}]},
]  # fmt: skip


@pytest.mark.usefixtures("invalid_image_users", "empty_cache")
def test_each_configuration_blocks_where_its_replay_does(tmp_path: Path) -> None:
    """Two independent ways: verdicts of running detectors, and replays of recorded measurements."""
    plain = tiny_study().to_toml()
    changes: dict[str, Any] = {
        "filters": FILTERS,
        "attacks": [{**attack, "budget_queries": 45} for attack in plain["attacks"]],
        "users": [*plain["users"], {"user": "spoilt", "sessions": 12}],
    }
    study = fit_detectors(tiny_study(**changes), digits(tiny_study()))
    configs: list[DetectorConfig] = [item.config for item in study.filters]
    configs += [variant for config in configs for variant in config.ablations().values()]
    specs = verdict_specs(configs)
    given = study, digits(study), formula_victim(tmp_path), FormulaBackend()
    traces = load(record(*given, specs).path, study, specs)
    replayed = load(record(*given).path, study)
    assert (~traces.valid).any()
    assert (traces.valid == replayed.valid).all()
    for config in configs:
        found = blocked_at(traces.recordings, config)
        np.testing.assert_array_equal(found, replay(replayed, config).blocked_at, str(config))
    for item in study.filters:
        assert (blocked_at(traces.recordings, item.config) > 0).any(), item.name


def test_a_detector_that_has_blocked_is_not_asked_again() -> None:
    recorder = VerdictRecorder([QuotaConfig(queries=1), QuotaConfig(queries=3)])
    image = np.zeros((4, 4))
    rows = []
    for _ in range(5):
        recorder.check(image)
        rows.append(recorder.row()["blocked"])
    assert rows == [0, 1, 1, 3, 3]
    assert not recorder._open


def test_many_configurations_are_divided_and_each_is_recorded_once() -> None:
    configs = [QuotaConfig(queries=number) for number in range(1, 71)]
    specs = verdict_specs([*configs, *configs, QuotaConfig(queries=7, scope="client")])
    assert [len(dict(spec.options)["detectors"]) for spec in specs] == [MOST, 8]
    assert merged(*specs) is None
    recorder = SessionRecorder(specs)
    for _ in range(65):
        recorder.check(np.zeros((4, 4)))
        recorder.observe(ModelAnswer(0, np.ones(1, np.float32)))
    assert [row["blocked"] for row in recorder.last_rows] == [2**MOST - 1, 2**2 - 1]


def test_a_recording_serves_a_part_of_its_configurations() -> None:
    [both] = verdict_specs([QuotaConfig(queries=1), QuotaConfig(queries=2)])
    [second] = verdict_specs([QuotaConfig(queries=2)])
    [third] = verdict_specs([QuotaConfig(queries=3)])
    assert covers(both, second)
    assert not covers(second, both)
    assert not covers(both, third)
    with pytest.raises(ValueError, match=r'no recording of the verdicts of .*"queries": 4'):
        blocked_at({}, QuotaConfig(queries=4))
