"""The confirmation scores its attackers' reconstructions unless ``tuning.confirm_leakage`` is false."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mifsim.run.folder import RunFolder
from mifsim.study.splitting import SPLITS
from tests.tuning.studies import FormulaBackend, digits, formula_victim, tiny_study
from tuning.bench_studies import calibration_study
from tuning.confirm import Confirmation
from tuning.replay import replay
from tuning.trace_loading import load
from tuning.traces import record


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("wanted", [True, False])
def test_reconstructions_are_kept_and_scored_only_if_wanted(
    wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[Any] = []
    monkeypatch.setattr("tuning.confirm.prepare_evaluator", lambda data: SimpleNamespace(facts={}))
    monkeypatch.setattr("tuning.confirm.score_run", lambda run, *others: scored.append(run))
    study = tiny_study(leakage={"enabled": False})
    data, victim = digits(study), formula_victim(tmp_path)
    traces = load(record(study, data, victim, FormulaBackend()).path, study)
    study = tiny_study(leakage={"enabled": True}, tuning={"confirm_leakage": wanted})
    run = RunFolder.create(tmp_path / "run", study)
    confirmation = Confirmation(study, data, victim, FormulaBackend(), run.metadata(study), replay)
    test = traces.of_split(SPLITS[2])
    found = confirmation.run(run, test, study.filters)
    assert found["confirmed_sessions"] == test.sessions * len(study.filters) > 0
    assert scored == ([run.path] if wanted else [])
    assert (run.path / "snapshots").is_dir() == wanted


def test_a_comparison_does_not_want_them() -> None:
    study = tiny_study(bench={"detectors": [{"name": "quota", "kind": "quota"}]})
    assert study.tuning.confirm_leakage
    assert not calibration_study(study, study.bench.detectors[0]).tuning.confirm_leakage
