"""Whole calibrations of a small study: their files and guarantee, failures, and resumption."""

from __future__ import annotations

import errno
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import binom

from mifsim.cli import main
from mifsim.defense import DetectorConfig, FilterConfig, load_config
from mifsim.defense.kinds import read_cells
from mifsim.errors import RunError
from mifsim.run.simulate import resume_simulation
from mifsim.study import Study
from mifsim.tables.records import SCHEMAS
from tests.tuning.studies import FormulaBackend, digits, formula_victim, serial_search, tiny_study
from tuning import tune as calibration
from tuning.confirm import compare, predicted
from tuning.params import param_schema
from tuning.replay import replay

SPACE = {"n_b": {"max": 10}, "l_sp": {"min": 2, "max": 8}, "t_ssim": {"max": 0.9}, "t_hash": {"min": 0.003},
         "ssim": ["global", "uniform"]}  # fmt: skip
LENIENT = {"trials": 20, "space": SPACE, "grid": {"t_ssim": 6, "t_hash": 6}, "false_positive_limit": 0.6,
           "false_positive_budget": 0.9, "confidence": 0.8}  # fmt: skip


class Backends:
    """Replaces `make_backend`: returns the given backends one after the other, and then always the last one."""

    def __init__(self, *backends: FormulaBackend) -> None:
        self.left = list(backends)

    def __call__(self, *where: object) -> FormulaBackend:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


@pytest.fixture(scope="module")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


UseBackends = Callable[..., None]


@pytest.fixture
def use_backends(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> UseBackends:
    """Calibrate without Ray and with a formula as the victim; call the fixture to set the backends, in order."""
    use_formula(cache_home, monkeypatch)
    monkeypatch.setattr("tuning.search.search", serial_search)

    def set_backends(*backends: FormulaBackend) -> None:
        monkeypatch.setattr(calibration, "make_backend", Backends(*backends))

    return set_backends


def use_formula(cache_home: Path, patch: pytest.MonkeyPatch) -> None:
    """Let calibrations use a formula as the victim, and the cache of this file's tests."""
    patch.setenv("MIFSIM_CACHE_DIR", str(cache_home / "cache"))  # the tests share the recording
    patch.setattr(calibration, "load_inputs", lambda study: (study, digits(study), formula_victim(cache_home)))
    patch.setattr(calibration, "make_backend", Backends(FormulaBackend()))


@pytest.fixture(scope="module")
def finished_run(cache_home: Path, local_ray: None) -> Path:
    """One calibration whose search goes through Ray Tune."""
    with pytest.MonkeyPatch.context() as patch:
        use_formula(cache_home, patch)
        return calibration.tune(tiny_study(tuning=LENIENT), cache_home / "whole")


def facts(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def trials_of(run: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(run / "trials" / "trials.parquet").to_pylist()
    return [{key: value for key, value in row.items() if key != "elapsed_seconds"} for row in rows]


def test_without_a_reference_front_the_outcome_is_the_same(finished_run: Path, calibrate: Callable[..., Path]) -> None:
    run = calibrate(tiny_study(tuning={**LENIENT, "reference": False}))
    assert trials_of(run) == trials_of(finished_run)
    assert (run / "filter.toml").read_bytes() == (finished_run / "filter.toml").read_bytes()
    assert "reference_hypervolume" not in facts(run)["tuning"]
    assert "reference" not in set(pq.read_table(run / "pareto.parquet").to_pandas()["source"])


def test_a_calibration_leaves_a_certified_confirmed_configuration(finished_run: Path) -> None:
    run = finished_run
    known = facts(run)
    found = known["tuning"]
    assert known["status"] == "complete"

    chosen = FilterConfig.load(run / "filter.toml")
    assert chosen == load_config(run / "filter.toml")
    assert chosen.to_dict() == found["chosen"]
    assert found["kind"] == "ssim-hash"
    space = tiny_study(tuning=LENIENT).tuning.search_space
    assert set(found["parameters"]) == {*space.params, *FilterConfig.choices}
    assert found["without_replay"] == []
    assert found["reference_hypervolume"] > 0
    assert found["reference_configs_tried"] > 0
    assert found["reference_seconds"] >= 0
    document = tomllib.loads((run / "filter.toml").read_text())
    assert document["guarantee"]["text"] == found["guarantee"]
    assert [row["name"] for row in document["guarantee"]["workloads"]] == ["independent", "retries"]
    assert {row["sessions"] for row in document["guarantee"]["workloads"]} == {5}
    # Users of the first workload send 3 to 9 images, those of the second 8.
    longest = [row["longest_session"] for row in document["guarantee"]["workloads"]]
    assert 3 <= longest[0] <= 9
    assert longest[1] == 8
    assert f"{longest[0]} for independent, 8 for retries" in found["guarantee"]
    assert document["guarantee"]["p_value"] <= 1 - 0.8
    assert document["data"]["transport"] == "float32"
    assert document["data"]["fit"] == "cut"
    assert document["victim"] == {"fingerprint": "formula", "test_accuracy": 0.2, "accept_any_accuracy": True}
    assert document["data"]["response"] == "confidence"

    for table, file in (("pareto", "pareto"), ("certification", "certification"), ("trials", "trials/trials")):
        schema = pq.read_schema(run / f"{file}.parquet")
        assert schema.equals(param_schema(table, space))
        extra = [name for name in schema.names if name.startswith("param_")]
        assert extra == [f"param_{name}" for name in (*space.params, *FilterConfig.choices)]
        assert [name for name in schema.names if name not in extra] == SCHEMAS[table].names
        for row in pq.read_table(run / f"{file}.parquet").to_pylist():
            config = read_cells(row["kind"], row["config"])
            assert isinstance(config, FilterConfig)
            assert {name: row[name] for name in extra} == {
                name: getattr(config, name.removeprefix("param_")) for name in extra
            }
    pareto = pq.read_table(run / "pareto.parquet").to_pandas()
    assert found["pareto_configs"] == (pareto["source"] == "search").sum()
    for row in pareto[pareto["chosen"]].to_dict("records"):
        assert read_cells(row["kind"], row["config"]) == chosen
    assert {"search", "reference", "given"} <= set(pareto["source"])
    assert pareto["chosen"].sum() == 1
    certification = pq.read_table(run / "certification.parquet").to_pandas()
    selected = certification[certification["chosen"]]
    assert sorted(selected["workload"]) == ["independent", "retries"]
    assert (selected["blocked"] <= selected["sessions"]).all()
    assert len(trials_of(run)) == 20

    # The chosen configuration and the three given ones run live, on the test split alone.
    sessions = pq.read_table(run / "sessions").to_pandas()
    assert set(sessions["filter"]) == {"calibrated", "third", "strict", "none"}
    ran = {
        name: read_cells(*cells)
        for name, *cells in set(zip(*(sessions[c] for c in ("filter", "kind", "config")), strict=True))
    }
    given = {item.name: item.config for item in tiny_study().filters}
    assert ran == {"calibrated": chosen, **given}
    assert found["confirmed_sessions"] == len(sessions) == 4 * sum(found["sessions"]["test"].values())
    blocked = sessions[sessions["filter"] == "calibrated"].groupby("population", observed=True)["queries_to_block"]
    for row in found["test"]["calibrated"]:
        assert row["blocked"] == blocked.count()[row["group"]]
    # A count without a leak never falls, so the largest one of a session is its last one.
    near = document["near_misses"]
    assert near["candidates"] == 1
    assert [row["name"] for row in near["workloads"]] == ["independent", "retries"]
    for row in near["workloads"]:
        ended = sessions[(sessions["filter"] == "calibrated") & (sessions["population"] == row["name"])]
        tenths = [int(10 * count) // chosen.l_sp for count in ended["suspicious_count"]]
        assert row["sessions"] == [sum(min(tenth, 10) == bin_ for tenth in tenths) for bin_ in range(11)]
        assert row["sessions"][10] == ended["queries_to_block"].count()
    for split in ("search", "calibration", "test"):
        assert sum(found["sessions"][split].values()) > 0
    assert sum(sum(counts.values()) for counts in found["sessions"].values()) == 30
    assert 0 < found["hypervolume_share"] <= 1


def test_no_configuration_is_chosen_when_none_is_certified(
    use_backends: UseBackends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Configurations within such strict bounds block most sessions with retries, but the limit is 30%."""
    bounds = {"t_ssim": {"min": 0.0, "max": 0.5}, "t_hash": {"min": 0.05, "max": 0.2}, "l_sp": {"min": 1, "max": 3}}
    strict = {**LENIENT, "space": {**SPACE, **bounds}, "false_positive_limit": 0.3, "separate_images": False}
    monkeypatch.setattr(Study, "load", lambda source, overrides: tiny_study(tuning=strict))
    run = tmp_path / "run"
    main(["tune", "tiny", "--out", str(run)])  # raises SystemExit unless the exit code is 0
    found = facts(run)["tuning"]
    assert facts(run)["status"] == "complete"
    assert found["chosen"] is None
    assert found["guarantee"] is None
    rows = pq.read_table(run / "certification.parquet").to_pandas()
    blocked = int(rows[rows["workload"] == "retries"]["blocked"].iloc[0])  # by the first candidate
    enough = next(n for n in range(blocked, 1000) if binom.cdf(blocked, n, 0.3) <= 0.2)
    reason = f"retries: no number at this rate, {enough} if no more are blocked (there are 5)"
    assert reason in found["why_none"]
    assert not (run / "filter.toml").exists()
    assert not pq.read_table(run / "pareto.parquet")["chosen"].to_pandas().any()
    assert set(pq.read_table(run / "sessions").to_pandas()["filter"]) == {"third", "strict", "none"}
    output = " ".join(capsys.readouterr().out.split())
    assert "No configuration was chosen" in output
    assert reason in output


def test_a_calibration_that_fails_on_a_full_disk_is_resumed(
    use_backends: UseBackends,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_backends(FormulaBackend())
    monkeypatch.setattr(Study, "load", lambda source, overrides=(): tiny_study(tuning=LENIENT))
    with monkeypatch.context() as full:

        def no_space(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(pq.ParquetWriter, "write_table", no_space)
        with pytest.raises(SystemExit) as exit_:
            main(["tune", "tiny", "--out", str(tmp_path / "run")])
    assert exit_.value.code == 2
    errors = capsys.readouterr().err
    assert "No space left on device" in errors
    assert str(tmp_path / "run" / "trials" / "trials.parquet") in errors  # the recording is complete before
    assert f"resume with: mifsim tune --resume {tmp_path / 'run'}" in errors
    assert facts(tmp_path / "run")["status"] == "failed"
    assert not list((tmp_path / "run").glob("**/.*"))
    assert len((tmp_path / "run" / "trials" / "journal.jsonl").read_text().splitlines()) == 20
    main(["tune", "--resume", str(tmp_path / "run")])
    assert trials_of(tmp_path / "run") == trials_of(finished_run)


def test_an_interrupted_calibration_is_resumed(use_backends: UseBackends, finished_run: Path, tmp_path: Path) -> None:
    study = tiny_study(tuning=LENIENT)
    # The recording is in the cache, so the interrupted shard belongs to the confirmation.
    use_backends(FormulaBackend(stop_after=3), FormulaBackend())
    with pytest.raises(KeyboardInterrupt):
        calibration.tune(study, tmp_path / "cut")
    assert facts(tmp_path / "cut")["status"] == "interrupted"
    assert not (tmp_path / "cut" / "filter.toml").exists()
    with pytest.raises(RunError, match="mifsim tune --resume"):
        resume_simulation(tmp_path / "cut")
    calibration.resume_tuning(tmp_path / "cut")

    assert facts(tmp_path / "cut")["status"] == "complete"
    assert facts(tmp_path / "cut")["tuning"]["recording_cached"]
    assert trials_of(tmp_path / "cut") == trials_of(finished_run)
    assert FilterConfig.load(tmp_path / "cut" / "filter.toml") == FilterConfig.load(finished_run / "filter.toml")
    for table in ("pareto", "certification"):
        one, other = (pq.read_table(run / f"{table}.parquet") for run in (finished_run, tmp_path / "cut"))
        assert one.to_pylist() == other.to_pylist()
    with pytest.raises(RunError, match="already complete"):
        calibration.resume_tuning(tmp_path / "cut")


def test_the_confirmation_detects_a_wrong_replay(
    use_backends: UseBackends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(traces: Any, config: DetectorConfig) -> Any:
        outcome = replay(traces, config)
        outcome.blocked_at[np.flatnonzero(traces.is_attack)[0]] += 1
        return outcome

    monkeypatch.setattr("tuning.confirm.predicted", lambda traces, filters, honest: predicted(traces, filters, wrong))
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"confirmation failed: \d+ of \d+ sessions differ") as error:
        calibration.tune(tiny_study(tuning=LENIENT), run)
    assert "mi-face/0/" in str(error.value)
    assert "@strict: blocked at query" in str(error.value) or "@strict: never blocked live" in str(error.value)
    assert facts(run)["status"] == "failed"
    assert not (run / "filter.toml").exists()


def test_the_error_names_at_most_ten_differing_sessions(finished_run: Path) -> None:
    unknown = {f"x/{n:02}@none": None for n in range(3)}
    live = facts(finished_run)["tuning"]["confirmed_sessions"]
    with pytest.raises(RunError) as error:
        compare(finished_run, unknown)
    lines = str(error.value).splitlines()
    assert len(lines) == 12
    assert lines[-1].strip() == f"and {live + 3 - 10} more"


def test_a_simulation_is_not_resumed_as_a_calibration(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"run_id": "r-1", "status": "interrupted"}))
    with pytest.raises(RunError, match="not a calibration; resume this run with: mifsim simulate --resume"):
        calibration.resume_tuning(tmp_path)
