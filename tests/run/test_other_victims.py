"""Whole runs with a service and with a plug-in's function as the victim; see also `tests/server/ray`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mifsim.addresses import allow_plain_http
from mifsim.cli import main
from mifsim.errors import RunError, VictimError
from mifsim.plugins import load_plugin, unload_plugins
from mifsim.run.inputs import load_inputs
from mifsim.run.simulate import resume_simulation, simulate
from mifsim.study import Study
from tests.run.victims import assert_same_sessions, of_service, study_of
from tests.victims.inference_service import Service, service
from tests.victims.test_plugin_engine import PLUGIN

STARTED = 12
"""Number of requests after which a run has started its engine and sent queries."""


def requests_of_check(found: Service, study: Study) -> int:
    """Return the number of requests before a run records anything."""
    before = found.counts()["requests"]
    load_inputs(study)
    return found.counts()["requests"] - before


@pytest.fixture(scope="module")
def digits_service() -> Iterator[Service]:
    with service((28, 28, 1), 10) as found:
        yield found


@pytest.fixture(scope="module")
def steady_run(digits_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "steady"
    run = simulate(study_of(of_service(digits_service)), path, backend="in-process")
    assert isinstance(run, Path)
    return run


def test_repeated_requests_do_not_count_as_queries(digits_service: Service, steady_run: Path, tmp_path: Path) -> None:
    study = study_of(of_service(digits_service, "tf-serving"))
    faults = [{"status": 503}, {}, {"cut": True}, {"close": True}, {"broken": True}, {}] * 4
    answered = [{}] * (requests_of_check(digits_service, study) + STARTED)
    digits_service.faults(*answered, *faults)  # the faults are during the run
    run = simulate(study, tmp_path / "run", backend="in-process")
    assert_same_sessions(steady_run, run)
    counts = digits_service.counts()
    assert counts["requests"] - counts["answered"] >= 8
    facts = json.loads((steady_run / "run.json").read_text())["victim"]
    assert facts["url"] == digits_service.url("oip-v2-binary")
    assert facts["identified_by"] == "its name and its answers to 32 images"


def test_the_plug_in_gives_the_rows_of_the_service_with_the_same_model(steady_run: Path, tmp_path: Path) -> None:
    load_plugin(PLUGIN)
    try:
        run = simulate(study_of({"plugin": "linear"}), tmp_path / "run", backend="in-process")
        facts = json.loads((run / "run.json").read_text())
    finally:
        unload_plugins()
    assert_same_sessions(steady_run, run)
    assert facts["plugins"][0]["file"] == "predictors.py"
    assert facts["victim"]["plugin"] == "linear"


def test_a_service_that_fails_for_good_ends_the_run_which_can_be_resumed(steady_run: Path, tmp_path: Path) -> None:
    with service((28, 28, 1), 10) as found:
        study = study_of(of_service(found, retries=1))
        found.faults(*[{}] * (requests_of_check(found, study) + STARTED), *[{"status": 503}] * 500)
        with pytest.raises(VictimError, match=r"answers HTTP 503: overloaded, after 2 attempts"):
            simulate(study, tmp_path / "run", backend="in-process")
        facts = json.loads((tmp_path / "run" / "run.json").read_text())
        assert facts["status"] == "failed"
        found.faults()
        assert_same_sessions(steady_run, resume_simulation(tmp_path / "run", backend="in-process"))


def test_a_run_is_not_resumed_with_another_model_behind_the_same_address(tmp_path: Path) -> None:
    with service((28, 28, 1), 10) as found:
        study = study_of(of_service(found, retries=0))
        found.faults(*[{}] * (requests_of_check(found, study) + STARTED), *[{"status": 503}] * 500)
        with pytest.raises(VictimError):
            simulate(study, tmp_path / "run", backend="in-process")
        found.stop()
        found.arguments = (*found.arguments, "--seed", "4")
        found.start()
        with pytest.raises(RunError, match=r"the victim has fingerprint .*\(identified by its name and its answers"):
            resume_simulation(tmp_path / "run", backend="in-process")


@pytest.fixture
def encrypted_again() -> Iterator[None]:
    """Undo the option ``--plain-http``, which holds for the whole process."""
    yield
    allow_plain_http(False)


def test_the_command_line_allows_unencrypted_victims_only_with_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], encrypted_again: None
) -> None:
    import tomli_w

    victim = {"url": "http://192.0.2.1/v2/models/m", "protocol": "oip-v2-json", "timeout_seconds": 0.1, "retries": 0}
    (tmp_path / "study.toml").write_text(tomli_w.dumps(study_of(victim).to_toml()))
    command = ["simulate", str(tmp_path / "study.toml"), "--out", str(tmp_path / "run"), "--backend", "in-process"]
    for options, message in (([], "--plain-http"), (["--plain-http"], "and victim.retries = 0")):
        with pytest.raises(SystemExit) as stopped:
            main([*command, *options])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
