"""Calibrations without one workload: equal to those of a study without it, resumable, and worked by hand."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scipy import stats

from mifsim.defense.quota import QuotaConfig
from mifsim.errors import RunError, StudyError
from mifsim.run.fits import fit_detectors
from mifsim.study import Study
from mifsim.tables.records import read_file
from mifsim.tables.storage import folder, matching
from tests.tuning.kind_studies import kind_study, record_traces
from tests.tuning.studies import digits, live_clients, serial_calibrations, tiny_study
from tuning import tune as calibration
from tuning.leave_out import LeftOut, calibrate_without, read_left_out, study_without
from tuning.params import param_schema
from tuning.tracedata import TraceSet
from tuning.trials import Trial

QUOTA: dict[str, Any] = {
    "kind": "quota", "trials": 30, "space": {"queries": {"min": 3, "max": 20}}, "false_positive_limit": 0.2,
    "confidence": 0.8,
}  # fmt: skip
LENGTHS = {"short": 5, "long": 15}


def quota_study(**changes: Any) -> Study:
    """Return a study of a quota, with users who send exactly 5 or 15 queries and attackers who send 25."""
    users = [
        {"user": "independent", "name": name, "sessions": 24, "length": length} for name, length in LENGTHS.items()
    ]
    return tiny_study(**{"tuning": {**QUOTA, "leave_out": True}, "users": users, **changes})


def facts_of(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    return facts


def rows_of(run: Path) -> dict[str, dict[str, Any]]:
    return {row["workload"]: row for row in pq.read_table(run / "leave_out.parquet").to_pylist()}


def split_events(events: Sequence[Trial | LeftOut]) -> tuple[list[Trial], LeftOut]:
    *trials, result = events
    assert isinstance(result, LeftOut)
    return [trial for trial in trials if isinstance(trial, Trial)], result


def test_a_configuration_certified_without_a_workload_may_block_all_of_it(calibrate: Callable[..., Path]) -> None:
    """The fastest quota that blocks no short session is 5, which blocks every long session at its 6th query.

    Of 24 clients, 10 are in the search split, 9 in the calibration split and 5 in the test split. Without a block, 9
    sessions certify a limit of 20% at 80% confidence, because 0.8^9 = 0.134; with one block they do not.
    """
    run = calibrate(quota_study())
    assert QuotaConfig.load(run / "filter.toml") == QuotaConfig(15)
    rows = rows_of(run)
    assert list(rows) == ["short", "long"]
    for name, quota, blocked, test_blocked in (("short", 15, 0, 0), ("long", 5, 14, 5)):
        row = rows[name]
        assert (row["kind"], json.loads(row["config"])["queries"], row["param_queries"]) == ("quota", quota, quota)
        assert row["certified"] is True
        assert row["why_none"] is None
        assert (row["sessions"], row["blocked"], row["limit"]) == (14, blocked, 0.2)
        assert (row["test_sessions"], row["test_blocked"]) == (5, test_blocked)
        assert row["false_positive_rate"] == blocked / 14
        assert row["queries_to_block"] == quota + 1
    # Clopper-Pearson at 80% confidence.
    assert (rows["short"]["low"], rows["short"]["high"]) == (0, pytest.approx(stats.beta.ppf(0.9, 1, 14)))
    assert (rows["long"]["low"], rows["long"]["high"]) == (pytest.approx(stats.beta.ppf(0.1, 14, 1)), 1)
    found = facts_of(run)["tuning"]["leave_out"]
    assert found.pop("seconds") >= 0
    assert found == {
        "workloads": 2, "certified": 2, "worst": "long", "worst_false_positive_rate": 1.0, "above_limit": ["long"],
    }  # fmt: skip
    assert not (run / "leave_out").exists()
    space = quota_study().tuning.search_space
    assert pq.read_schema(run / "leave_out.parquet").equals(param_schema("leave_out", space))
    assert {row.workload: row.config for row in read_left_out(run)} == {
        "short": QuotaConfig(15), "long": QuotaConfig(5),
    }  # fmt: skip


def test_a_workload_without_which_nothing_is_certified_has_a_reason(calibrate: Callable[..., Path]) -> None:
    """A quota of at most 14 blocks every long session: nothing is certified with them, and 5 without them."""
    run = calibrate(quota_study(tuning={**QUOTA, "space": {"queries": {"min": 3, "max": 14}}, "leave_out": True}))
    rows = rows_of(run)
    assert facts_of(run)["tuning"]["chosen"] is None
    assert rows["long"]["blocked"] == 14
    missing = rows["short"]
    assert missing["certified"] is False
    assert (missing["kind"], missing["sessions"], missing["test_sessions"]) == ("quota", 14, 5)
    null = ("config", "param_queries", "blocked", "false_positive_rate", "low", "high", "test_blocked")
    assert [missing[name] for name in (*null, "queries_to_block")] == [None] * 8
    assert missing["why_none"] == "the search found no configuration with a false-positive rate of at most 0.1"
    found = facts_of(run)["tuning"]["leave_out"]
    assert (found["certified"], found["worst"], found["above_limit"]) == (1, "long", ["long"])


def test_the_searches_without_a_workload_can_have_fewer_trials(
    calibrate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: dict[str, int] = {}

    def counted(traces: TraceSet, study: Study, workload: str, *others: Any) -> Iterator[Trial | LeftOut]:
        for event in calibrate_without(traces, study, workload, *others):
            searched[workload] = searched.get(workload, 0) + isinstance(event, Trial)
            yield event

    monkeypatch.setattr("tests.tuning.studies.calibrate_without", counted)
    run = calibrate(quota_study(tuning={**QUOTA, "leave_out": True, "leave_out_trials": 7}))
    assert searched == {"short": 7, "long": 7}
    assert len(pq.read_table(run / "trials")) == QUOTA["trials"]
    assert list(rows_of(run)) == ["short", "long"]


def test_a_calibration_does_not_leave_out_workloads_by_default(calibrate: Callable[..., Path]) -> None:
    run = calibrate(quota_study(tuning=QUOTA))
    assert not (run / "leave_out.parquet").exists()
    assert "leave_out" not in facts_of(run)["tuning"]


PLAIN: dict[str, Any] = {
    "attack": "mi-face", "noise": 0.01, "labels": [0, 3], "trials": 3, "budget_queries": 25, "beta": 0, "gamma": 0.0,
}  # fmt: skip
ROTATING = [{**PLAIN, "name": "plain"}, {**PLAIN, "name": "rotating", "evasions": [{"rotate": {"sessions": 2}}]}]
SSIM = {"n_b": {"max": 10}, "l_sp": {"min": 2, "max": 8}, "t_ssim": {"max": 0.9}, "t_hash": {"min": 0.003}}
REACHABLE = {"false_positive_budget": 0.9, "confidence": 0.8}
LIMITS = {"independent": 0.6, "retries": 0.65, "spoilt": 0.6}
STUDIES: dict[str, dict[str, Any]] = {
    "ssim-hash": {"tuning": {"trials": 30, "space": SSIM, "false_positive_limit": LIMITS, **REACHABLE}},
    "evidence": {"tuning": {"kind": "evidence", "trials": 30, "false_positive_limit": LIMITS, **REACHABLE}},
    "closed loop": {
        "tuning": {"kind": "test-allowance", "trials": 8, "false_positive_limit": LIMITS, **REACHABLE},
        "attacks": ROTATING,
    },
    "live": {
        "tuning": {"kind": "test-live-allowance", "trials": 8, "false_positive_limit": LIMITS, **REACHABLE},
        "attacks": ROTATING,
    },
}


@pytest.mark.usefixtures("kinds", "invalid_image_users")
@pytest.mark.parametrize("name", STUDIES)
def test_a_calibration_without_a_workload_equals_that_of_a_study_without_it(
    name: str, calibrate: Callable[..., Path], tmp_path: Path
) -> None:
    study = kind_study(**{"kind": "quota", **STUDIES[name]})
    study = fit_detectors(study, digits(study))
    whole = calibrate(study.model_copy(update={"tuning": study.tuning.model_copy(update={"leave_out": True})}), "whole")
    rows = rows_of(whole)
    assert list(rows) == [users.name for users in study.users]
    for workload, row in rows.items():
        other = Study.parse(study_without(study, workload).to_toml())
        assert [users.name for users in other.users] == [one for one in rows if one != workload]
        run = calibrate(other, workload)
        found = facts_of(run)["tuning"]
        pareto = pq.read_table(run / "pareto.parquet").to_pandas()
        if found["chosen"] is None:
            assert row["why_none"] == found["why_none"]
            continue
        assert {"kind": row["kind"], **json.loads(row["config"])} == found["chosen"]
        assert row["queries_to_block"] == pareto.loc[pareto["chosen"], "queries_to_block"].item()


@pytest.mark.usefixtures("kinds", "invalid_image_users")
@pytest.mark.parametrize("name", ["ssim-hash", "evidence", "live"])
def test_the_trials_without_a_workload_are_those_of_a_study_without_it(
    name: str, calibrate: Callable[..., Path], tmp_path: Path
) -> None:
    study = kind_study(**{"kind": "quota", **STUDIES[name], "attacks": [PLAIN]})
    study = fit_detectors(study, digits(study))
    run = calibrate(Study.parse(study_without(study, "retries").to_toml()))
    expected = pq.read_table(run / "trials" / "trials.parquet").to_pylist()
    traces = record_traces(study, tmp_path)
    live, replay = live_clients(study)
    trials, result = split_events(list(calibrate_without(traces, study, "retries", (), live, replay)))
    for trial, row in zip(trials, expected, strict=True):
        assert (trial.number, trial.config.to_cells()["config"]) == (row["trial"], row["config"])
        assert trial.result.queries == row["queries_to_block"]
        assert trial.result.false_positive_rate == row["false_positive_rate"]
        assert trial.result.sessions == row["sessions_replayed"]
    if name != "live":  # which workload is left out makes a difference
        others = [
            split_events(list(calibrate_without(traces, study, workload, (), live, replay)))[0]
            for workload in ("independent", "spoilt")
        ]
        assert any([one.result for one in one_less] != [one.result for one in trials] for one_less in others)
    resumed = list(calibrate_without(traces, study, "retries", trials[:5], live, replay))
    new, found = split_events(resumed)
    assert [one.number for one in new] == list(range(5, len(trials)))
    assert found == result


@pytest.mark.usefixtures("empty_cache")
def test_trials_of_another_search_are_refused(tmp_path: Path) -> None:
    study = quota_study()
    trials, _ = split_events(list(calibrate_without(record_traces(study, tmp_path), study, "long")))
    other = study.model_copy(update={"seed": study.seed + 1})
    with pytest.raises(RunError, match=r"trial 0 of the journal is QuotaConfig\(.*its search cannot be resumed"):
        list(calibrate_without(record_traces(other, tmp_path), other, "long", trials))


class Interrupted:
    """Replaces `calibrate_all`: raises KeyboardInterrupt after some events, and stores what is asked for."""

    def __init__(self, stop_after: int) -> None:
        self.stop_after = stop_after
        self.wanted: list[dict[str, int]] = []

    def __call__(
        self, traces: TraceSet, study: Study, wanted: Mapping[str, Sequence[Trial]], *where: object
    ) -> Iterator[tuple[str, Trial | LeftOut]]:
        self.wanted.append({name: len(trials) for name, trials in wanted.items()})
        for number, event in enumerate(serial_calibrations(traces, study, wanted)):
            if number == self.stop_after:
                raise KeyboardInterrupt
            yield event


def test_an_interrupted_run_keeps_finished_workloads_and_trials(
    calibrate: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 trials and the result of the first workload, then 7 trials of the second, are finished when it stops."""
    whole = calibrate(quota_study(), "whole")
    calibrations = Interrupted(38)
    monkeypatch.setattr("tuning.leave_out_actors.calibrate_all", calibrations)
    with pytest.raises(KeyboardInterrupt):
        calibrate(quota_study(), "cut")
    cut = tmp_path / "cut"
    assert facts_of(cut)["status"] == "interrupted"
    assert (cut / "filter.toml").is_file()  # the calibration itself is finished
    assert list(rows_of(cut)) == ["short"]
    assert not list(cut.glob("**/.*"))

    calibrations.stop_after = 1000
    calibration.resume_tuning(cut)
    assert calibrations.wanted == [{"short": 0, "long": 0}, {"long": 7}]
    assert facts_of(cut)["status"] == "complete"
    assert rows_of(cut) == rows_of(whole)
    assert not (cut / "leave_out").exists()
    one, other = (facts_of(run)["tuning"]["leave_out"] for run in (cut, whole))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_an_interrupted_run_on_a_store_is_resumed(
    calibrate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_of(calibrate(quota_study(), "local"))
    run = folder("mock://store") / uuid.uuid4().hex
    calibrations = Interrupted(38)
    monkeypatch.setattr("tuning.leave_out_actors.calibrate_all", calibrations)
    with pytest.raises(KeyboardInterrupt):
        calibration.tune(quota_study(), run)
    assert len(matching(run / "leave_out" / "01" / "trials", "journal-*.jsonl")) == 7
    calibrations.stop_after = 1000
    calibration.resume_tuning(run)
    assert calibrations.wanted[1] == {"long": 7}
    assert {row["workload"]: row for row in read_file(run / "leave_out.parquet").to_pylist()} == expected
    assert not (run / "leave_out").exists()


def test_a_damaged_table_of_an_interrupted_run_is_named(
    calibrate: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.leave_out_actors.calibrate_all", Interrupted(38))
    with pytest.raises(KeyboardInterrupt):
        calibrate(quota_study())
    (tmp_path / "run" / "leave_out.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(RunError, match=r"leave_out\.parquet: cannot be read"):
        calibration.resume_tuning(tmp_path / "run")


def test_a_study_with_one_workload_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    users = [{"user": "independent", "sessions": 24}]
    message = r"tuning\.leave_out = true: needs at least two workloads, but 'independent' is the only one"
    with pytest.raises(StudyError, match=message):
        calibration.tune(quota_study(users=users), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_key_is_kept_in_the_study_of_the_run(calibrate: Callable[..., Path]) -> None:
    run = calibrate(quota_study())
    assert Study.load(run / "study.toml").tuning.leave_out is True
