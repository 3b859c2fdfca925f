"""Detectors that a calibration compares: equal to calibrations of their own, confirmed live, and resumable."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mifsim.defense import load_config
from mifsim.errors import StudyError
from mifsim.study import Study
from mifsim.tables.records import read_table
from tests.tuning.studies import tiny_study
from tuning import tune as calibration
from tuning.study_check import check_calibration

QUOTA = {"name": "budget", "kind": "quota", "trials": 10, "space": {"queries": {"min": 3, "max": 20}}}
NEAREST = {"name": "near", "kind": "nearest", "trials": 6}
LIMITS = {"false_positive_limit": 0.2, "confidence": 0.8}


def study_with(compare: list[dict[str, Any]], **tuning: Any) -> Study:
    """Return a study that calibrates the paper's filter, and compares others with it."""
    users = [{"user": "independent", "name": "short", "sessions": 24, "length": 5}]
    space = {"n_b": {"max": 4}, "ssim": ["global"]}
    section = {"trials": 8, "space": space, "grid": {"t_ssim": 4, "t_hash": 4}, **LIMITS, "compare": compare, **tuning}
    return tiny_study(tuning=section, users=users)


def facts_of(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())["tuning"]
    return facts


def test_each_detector_is_calibrated_as_in_a_calibration_of_its_own(calibrate: Callable[..., Path]) -> None:
    run = calibrate(study_with([QUOTA, NEAREST]))
    alone = study_with([], kind="quota", trials=10, space=QUOTA["space"], grid={})
    alone_run = calibrate(alone, "alone")
    expected = load_config(alone_run / "filter.toml")
    assert load_config(run / "compared" / "budget" / "filter.toml") == expected
    for table in ("trials/trials.parquet", "certification.parquet"):
        found, wanted = (pq.read_table(folder / table) for folder in (run / "compared" / "budget", alone_run))
        for column in set(wanted.column_names) - {"elapsed_seconds"}:
            assert found[column].to_pylist() == wanted[column].to_pylist(), column
    compared = facts_of(run)["compared"]
    assert list(compared) == ["budget", "near"]
    assert compared["budget"]["chosen"] == expected.to_dict()
    assert compared["budget"]["guarantee"] == facts_of(alone_run)["guarantee"]
    assert compared["near"]["kind"] == "nearest"


def test_the_certified_ones_run_live_beside_the_study_s_filters(calibrate: Callable[..., Path]) -> None:
    """`calibrate` confirms that all live sessions end as in the replay."""
    run = calibrate(study_with([QUOTA]))
    names = set(read_table(run, "sessions", ["filter"])["filter"].to_pylist())
    assert {"calibrated", "budget", "strict"} <= names
    # Every honest session has five queries, which are its count; one more than the quota blocks.
    path = run / "compared" / "budget" / "filter.toml"
    (workload,) = tomllib.loads(path.read_text())["near_misses"]["workloads"]
    quota = load_config(path).parameter_values()["queries"]
    assert [bin_ for bin_, found in enumerate(workload["sessions"]) if found] == [10 * 5 // (quota + 1)]
    assert [item["group"] for item in facts_of(run)["test"]["budget"]] == ["mi-face", "short"]


def test_without_a_certified_configuration_the_reason_is_recorded(calibrate: Callable[..., Path]) -> None:
    """Every honest session has five queries, so a quota of at most four blocks all of them."""
    run = calibrate(study_with([{**QUOTA, "space": {"queries": {"min": 1, "max": 4}}}]))
    found = facts_of(run)["compared"]["budget"]
    assert found["chosen"] is None
    assert "false-positive rate" in found["why_none"]
    assert "budget" not in set(read_table(run, "sessions", ["filter"])["filter"].to_pylist())
    assert not (run / "compared" / "budget" / "filter.toml").exists()


def test_an_interrupted_calibration_of_a_compared_detector_is_resumed(
    calibrate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = study_with([QUOTA])
    complete = calibrate(study, "complete")
    with monkeypatch.context() as patch:

        def interrupt(*arguments: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr("tuning.compared.write_certification", interrupt)
        with pytest.raises(KeyboardInterrupt):
            calibrate(study, "interrupted")
    run = tmp_path / "interrupted"
    assert not (run / "compared" / "budget" / "filter.toml").exists()
    calibration.resume_tuning(run)
    for name in ("filter.toml", "compared/budget/filter.toml"):
        assert load_config(run / name) == load_config(complete / name)


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        ([{**QUOTA, "name": "strict"}], "different names; used more than once: strict"),
        ([QUOTA, QUOTA], "different names; used more than once: budget"),
        ([{**QUOTA, "name": "calibrated"}], "tuning.compare: the name 'calibrated' is reserved"),
    ],
)
def test_names_must_be_different(compare: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        check_calibration(study_with(compare))


def test_a_compared_detector_is_not_calibrated_without_each_workload() -> None:
    with pytest.raises(StudyError, match=r"tuning\.compare: 'budget': leave_out: not accepted here"):
        study_with([{**QUOTA, "leave_out": True}])


def test_the_space_of_a_compared_detector_is_checked_when_the_study_is_read() -> None:
    with pytest.raises(StudyError, match=r"tuning\.compare: 'budget'.*qeries"):
        study_with([{**QUOTA, "space": {"qeries": {"max": 3}}}])
