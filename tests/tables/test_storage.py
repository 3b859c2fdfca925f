"""Runs and recordings are the same on every file system that pyarrow can open.

The tests use Arrow's in-memory file system. With ``MIFSIM_TEST_URL`` (such as ``s3://bucket/tests``) they use a real
object store too; CONTRIBUTING.md explains how.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mifsim import load_config, read_run
from mifsim.cli import main
from mifsim.defense.space import SearchSpace
from mifsim.errors import RunError
from mifsim.run import sessions as run_sessions
from mifsim.run import simulate as simulation
from mifsim.run.folder import RunFolder
from mifsim.study import Study
from mifsim.tables import storage
from mifsim.tables.records import TableWriter, read_file, read_table
from mifsim.tables.storage import RemotePath, folder, matching, remove
from reports.compare import compare_runs
from reports.page import render
from tests.run.comparing import InterruptAfter, assert_same_rows
from tests.small import small_study
from tests.tuning.studies import FormulaBackend, digits, formula_victim, serial_search, tiny_study
from tests.tuning.test_tune import LENIENT, trials_of
from tuning import tune as calibration
from tuning.trials import Journal

STORES = ["mock://store/some runs", *([os.environ["MIFSIM_TEST_URL"]] if "MIFSIM_TEST_URL" in os.environ else [])]
SPACE = SearchSpace.parse("ssim-hash", {})


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> RemotePath:
    location = folder(request.param) / uuid.uuid4().hex
    assert isinstance(location, RemotePath)
    return location


def test_a_local_path_becomes_a_pathlib_path() -> None:
    assert folder("runs/mine") == Path("runs/mine")
    assert folder("file:///srv/some%20runs") == Path("/srv/some runs")
    assert folder("C:/odd") == Path("C:/odd")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere://x/y", r"nowhere://x/y: pyarrow cannot open a file system: .*accepted: a path, or a URL"),
        ("s3://key:secret@bucket/x", r"^s3://…@bucket/x: a URL must not contain credentials"),
        ("s3://key:very/secret@bucket/x", r"^s3://…: a URL must not contain credentials"),
        ("s3://key:very#secret@bucket/x", r"^s3://…: a URL must not contain credentials"),
        ("s3://bucket/a#b", r"^s3://bucket/a#b: .*%23"),
        ("file://host/x", "must be file:///"),
    ],
)
def test_an_unusable_url_is_refused(text: str, message: str) -> None:
    with pytest.raises(RunError, match=message) as error:
        folder(text)
    assert "secret@" not in str(error.value)


def test_a_url_is_split_like_a_path_and_keeps_its_query() -> None:
    run = RemotePath("s3://bucket/runs/mine?region=eu-central-1")
    assert str(run / "study.toml") == "s3://bucket/runs/mine/study.toml?region=eu-central-1"
    assert (run / "study.toml").parent == run
    assert ((run / "a.b.toml").name, (run / "a.b.toml").stem) == ("a.b.toml", "a.b")
    assert (run / "x").located[1] == "bucket/runs/mine/x"
    assert RemotePath("gs://bucket/runs").located[1] == "bucket/runs"
    assert pickle.loads(pickle.dumps(run)) == run


def test_an_error_in_a_url_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str) -> None:
        raise OSError("no libjvm\ndlopen(libjvm.so) failed\ndlopen(libjvm.so) failed")

    monkeypatch.setattr(storage, "_connect", fail)
    with pytest.raises(RunError, match="no libjvm") as error:
        folder("hdfs://server:8020/runs")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["50%", "50%25", "a#b", "a?b", "a b", "run[1] *"])
def test_special_characters_in_a_name_are_taken_literally(store: RemotePath, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").touch()
    location = store / name / "x.bin"
    location.put(tmp_path / "empty")
    assert location.read_bytes() == b""
    assert [entry.name for entry in store.iterdir()] == [name]
    assert matching(store, "*/x.*") == [location] == list((store / name).glob("*.bin"))
    assert location.parent.name == name
    assert folder(str(location)) == location
    assert location.located[1].endswith(f"/{name}/x.bin")


@pytest.fixture
def _interruptible() -> Iterator[None]:
    # A shell starts background jobs with SIGINT ignored; Python then installs no handler that raises.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_leaves_no_partial_file(
    store: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_copy(source: Any, out: Any, size: int) -> None:
        out.write(source.read(size))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.2)
        out.write(source.read())

    local = tmp_path / "file"
    local.write_bytes(os.urandom(3 * storage.CHUNK_BYTES))
    store.mkdir()
    location = store / "x.bin"
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_PUT_IS_ATOMIC", storage._PUT_IS_ATOMIC | {"mock"})
        patch.setattr(shutil, "copyfileobj", interrupted_copy)
        with pytest.raises(KeyboardInterrupt):
            location.put(local)
    assert location.read_bytes() == local.read_bytes()


def test_files_are_written_listed_replaced_and_removed(store: RemotePath, tmp_path: Path) -> None:
    local = tmp_path / "file"
    local.write_bytes(b"one")
    assert not store.exists()
    assert not list(store.glob("*"))
    with pytest.raises(FileNotFoundError) as missing:
        (store / "a" / "x.bin").read_bytes()
    assert missing.value.filename == str(store / "a" / "x.bin")
    for name in ("a/x.bin", "a/y.txt", "b/x.bin"):
        (store / name).put(local)
    local.write_bytes(b"two")
    (store / "a" / "x.bin").put(local)
    assert (store / "a" / "x.bin").read_bytes() == b"two"
    assert (store / "b" / "x.bin").read_text() == "one"
    assert matching(store, "*/x.*") == [store / "a" / "x.bin", store / "b" / "x.bin"]
    assert [entry.name for entry in store.iterdir()] == ["a", "b"]
    assert ((store / "a").is_dir(), (store / "a").is_file()) == (True, False)
    assert ((store / "a" / "x.bin").is_dir(), (store / "a" / "x.bin").is_file()) == (False, True)
    (store / "a" / "x.bin").unlink()
    (store / "a" / "x.bin").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (store / "a" / "x.bin").unlink()
    remove(store)
    assert not store.exists()
    remove(store)


def test_an_unfinished_table_does_not_exist(store: RemotePath) -> None:
    row = {"population": ["p"], "file": ["f"], "row": [1], "log_client": ["c"], "problem": ["none"]}
    writer = TableWriter(store / "bad_rows.parquet", "bad_rows", {})
    writer.write(row)
    writer.close(keep=False)
    assert not store.exists()
    with TableWriter(store / "bad_rows.parquet", "bad_rows", {"run_id": "r-1"}) as writer:
        writer.write(row)
    assert read_file(store / "bad_rows.parquet").to_pydict()["row"] == [1]
    assert [entry.name for entry in store.iterdir()] == ["bad_rows.parquet"]


def test_an_interrupted_run_on_a_store_resumes_to_the_same_rows(
    store: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local_run = simulation.simulate(small_study(), tmp_path / "here", backend="in-process")
    monkeypatch.setattr(Study, "load", lambda source, overrides=(), load=Study.load: (
        small_study() if source == "small" else load(source, overrides)
    ))  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(run_sessions, "InProcess", lambda: InterruptAfter(60))
        with pytest.raises(SystemExit) as exit_:
            main(["simulate", "small", "--out", str(store), "--backend", "in-process"])
    assert exit_.value.code == 130
    assert "--resume 'mock://" in capsys.readouterr().err or "MIFSIM_TEST_URL" in os.environ
    assert RunFolder.open(store).facts["status"] == "interrupted"
    assert 0 < read_table(store, "sessions").num_rows < 45
    with pytest.raises(RunError, match="not empty"):
        simulation.simulate(small_study(), store, backend="in-process")
    main(["simulate", "--resume", str(store), "--backend", "in-process"])
    assert_same_rows(local_run, store)  # type: ignore[arg-type]
    page = (store / "report.html").read_text()
    assert page == render(store)
    assert "sessions/*.parquet" in page
    main(["report", str(store)])
    assert capsys.readouterr().out.splitlines()[-1] == str(store / "report.html")
    both = compare_runs([local_run, store])
    assert both.groupby("run")["blocked"].sum().nunique() == 1
    with pytest.raises(RunError, match="complete"):
        simulation.resume_simulation(store, backend="in-process")


def test_a_calibration_and_its_recording_can_be_on_a_store(
    store: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "load_inputs", lambda study: (study, digits(study), formula_victim(tmp_path)))
    monkeypatch.setattr("tuning.search.search", serial_search)
    monkeypatch.setattr(calibration, "make_backend", lambda *where: FormulaBackend())
    study = tiny_study(tuning=LENIENT)
    local_run = calibration.tune(study, tmp_path / "here")
    monkeypatch.setenv("MIFSIM_TRACES", str(store / "recordings"))
    monkeypatch.setattr(calibration, "make_backend", lambda *where: FormulaBackend(stop_after=5))
    with pytest.raises(KeyboardInterrupt):
        calibration.tune(study, store / "run")
    assert len(matching(store / "recordings", "*/*/sessions/*.parquet")) == 5
    monkeypatch.setattr(calibration, "make_backend", lambda *where: FormulaBackend())
    calibration.resume_tuning(store / "run")
    assert len(matching(store / "recordings", "*/*/run.json")) == 1
    assert read_file(store / "run" / "trials" / "trials.parquet").drop(["elapsed_seconds"]).to_pylist() == trials_of(
        local_run
    )  # type: ignore[arg-type]
    for table in ("pareto", "certification"):
        expected, got = (read_file(run / f"{table}.parquet").to_pylist() for run in (local_run, store / "run"))
        assert got == expected
    assert (store / "run" / "filter.toml").read_text() == (local_run / "filter.toml").read_text()
    chosen = read_run(store / "run").filter
    assert chosen is not None
    assert chosen == load_config(local_run / "filter.toml")


@pytest.mark.skipif(
    "MIFSIM_TEST_URL" not in os.environ, reason="session hosts are processes without access to this one's memory"
)
def test_session_hosts_write_directly_to_a_store(tmp_path: Path) -> None:
    store = folder(os.environ["MIFSIM_TEST_URL"]) / uuid.uuid4().hex
    local_run = simulation.simulate(small_study(), tmp_path / "here", backend="in-process")
    remote_run = simulation.simulate(small_study(server={"hosts": 2}), store)
    assert_same_rows(local_run, remote_run)  # type: ignore[arg-type]


def test_a_journal_on_a_store_loses_no_finished_trial(store: RemotePath, tmp_path: Path) -> None:
    from tests.tuning.search_samples import trial

    with Journal(store, {}, SPACE) as journal:
        for number in (0, 2, 1):
            journal.append(trial(number))
    assert Journal(store, {}, SPACE).read() == [trial(0), trial(1), trial(2)]
    with Journal(store, {}, SPACE) as journal:
        journal.append(trial(3))
    Journal(store, {}, SPACE).finish([trial(number) for number in range(4)])
    assert [entry.name for entry in (store / "trials").iterdir()] == ["trials.parquet"]
    assert Journal(store, {}, SPACE).read() == [trial(number) for number in range(4)]


def test_a_run_with_another_shard_size_is_not_resumed(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", small_study()).path
    small_study(server={"sessions_per_host": 9}).save(run / "study.toml")
    with pytest.raises(RunError, match=r"server.sessions_per_host = 9: the run started with 8"):
        simulation.resume_simulation(run, backend="in-process")


def test_facts_are_updated_and_a_discarded_run_is_removed(store: RemotePath) -> None:
    run = RunFolder.create(store, small_study())
    run.update_facts(more=1)
    assert json.loads((store / "run.json").read_text())["more"] == 1
    run.discard()
    assert not store.exists()
