"""`mifsim submit` before and after the cluster: what is refused here, orders, exit codes, a log with breaks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster import client
from cluster.client import Cluster, check_address
from cluster.job import inputs_of, job_storage, pack_run
from cluster.job_spec import JOB_SPEC_FILE, JobSpec, check_program, source_digest
from cluster.submit import Where, exit_code
from mifsim.cli import main
from mifsim.errors import ClusterError, RunError
from mifsim.run.folder import versions
from tests.cluster.nodes import free_port
from tests.cluster.test_bundle import write_images
from tests.small import SMALL


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Submit what must be refused, and return what is said."""
    with pytest.raises(SystemExit) as exit_:
        main(["submit", *map(str, arguments)])
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def write_study(folder: Path, **sections: object) -> Path:
    file = folder / "study.toml"
    file.write_text(tomli_w.dumps({**SMALL, **sections}))
    return file


def job_spec(**changes: object) -> JobSpec:
    given = {"job": "mifsim-x-1", "command": "tune", "run": "x", "source": source_digest(), "versions": versions()}
    return JobSpec.model_validate({**given, **changes})


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "http://localhost:8265/", "http://[::1]:8265", "https://ray.example.org"]
)
def test_a_token_goes_to_this_machine_or_through_tls(address: str) -> None:
    assert check_address(address) == address.rstrip("/")


@pytest.mark.parametrize("host", ["192.0.2.1", "ray.example.org", "127.0.0.1.example.org", "[2001:db8::1]"])
def test_a_token_does_not_cross_a_network_in_the_clear_unless_told_to(host: str) -> None:
    with pytest.raises(RunError, match=r"unencrypted; open a tunnel .* or say --plain-http"):
        check_address(f"http://{host}:8265")
    assert check_address(f"http://{host}:8265", plain=True) == f"http://{host}:8265"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8265", "ray://127.0.0.1:10001", "auto", "http://", "http://127.0.0.1:x", "os://x", ""]
)
def test_what_is_no_job_api_is_told(address: str) -> None:
    with pytest.raises(RunError, match="is no job API"):
        check_address(address, plain=True)


def test_nobody_there(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    address = f"http://127.0.0.1:{free_port()}"
    said = fails(capsys, write_study(tmp_path), "--command", "simulate", "--address", address, "--out", tmp_path / "r")
    assert f"{address}: no Ray head answers there" in said
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of STUDY, --attach JOB and --resume RUN"),
        (["digits", "--attach", "job"], "give one of STUDY"),
        (["--attach", "job", "--set", "seed=1"], "the job has its own"),
        (["digits", "--filter", "a.toml"], "--filter goes with --command matrix"),
        (["digits", "--command", "simulate", "--storage", "shared"], "--storage shared: must be an absolute path"),
        (["--resume", "runs/x"], "must be the run's whole path on the cluster"),
        (
            ["digits", "--command", "simulate", "--storage", "mock://b/x", "--out", "runs/x"],
            "the run stays at mock://b/x",
        ),
        (["--resume", "mock://b/x", "--out", "runs/x"], "the run stays at mock://b/x"),
        (["digits", "--storage", "nowhere://b/x"], "nowhere://b/x: pyarrow reaches no file system there"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in fails(capsys, *arguments)


def test_a_study_is_checked_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(self: Cluster, address: str) -> None:
        raise AssertionError("something was to be sent")

    monkeypatch.setattr(Cluster, "__init__", connect)
    assert "did you mean 'transport'?" in fails(capsys, write_study(tmp_path, server={"transprt": "uint8"}))
    assert "filters: is missing" in fails(capsys, write_study(tmp_path, filters=[]), "--command", "simulate")
    # Too few sessions for the limit: what mifsim tune would say.
    assert "sessions" in fails(capsys, write_study(tmp_path))
    write_images(tmp_path / "images", images=12)
    (tmp_path / "images" / "class 1" / "3.png").write_bytes(b"no image")
    data = {"set": "folder", "folder": "images", "size": [8, 8], "color": "gray"}
    damaged = write_study(tmp_path, data=data, attacks=[], victim={})
    assert "3.png: neither PNG, JPEG nor PGM" in fails(capsys, damaged, "--command", "simulate")


def test_a_model_with_code_in_it_is_not_sent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = keras.layers.Lambda(lambda x: x)
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), code, keras.layers.Dense(10, "softmax")]
    )
    model.save(tmp_path / "own.keras")
    said = fails(capsys, write_study(tmp_path, victim={"file": "own.keras"}), "--command", "simulate")
    assert "holds Python code" in said


def test_an_order_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = job_spec(storage="/shared", filters=[["strict", "filters/0.toml"]], fetch=True)
    (tmp_path / JOB_SPEC_FILE).write_text(written.model_dump_json())
    assert JobSpec.read(tmp_path) == written


@pytest.mark.parametrize(
    "changes",
    [
        {"job": "../x"}, {"job": "x y"}, {"run": "../../etc"}, {"run": "a/b"}, {"command": "rm"}, {"parcel": "abc"},
        {"filters": [["a", "../../etc/passwd"]]}, {"more": 1}, {"format": 2},
    ],
)  # fmt: skip
def test_an_order_cannot_name_what_is_outside_or_unknown(changes: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / JOB_SPEC_FILE).write_text(json.dumps({**json.loads(job_spec().model_dump_json()), **changes}))
    with pytest.raises(ClusterError, match=r"order\.json: "):
        JobSpec.read(tmp_path)


def test_another_program_on_the_cluster_is_refused_and_other_libraries_are_told() -> None:
    assert check_program(job_spec(), versions()) == []
    with pytest.raises(ClusterError, match="has another mifsim"):
        check_program(job_spec(source="0" * 16), versions())
    (line,) = check_program(job_spec(), {**versions(), "numpy": "1.0"})
    assert "numpy is 1.0 on the cluster" in line


def test_storage_that_is_not_there_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match="is no folder on the cluster's head"),
        job_storage(job_spec(storage=str(tmp_path / "x"))),
    ):
        pass
    with job_storage(job_spec(storage=str(tmp_path))) as storage_dir:
        assert storage_dir == tmp_path
    with job_storage(job_spec()) as scratch:
        assert scratch.stat().st_mode & 0o777 == 0o700
        (scratch / "rows").write_text("of private data")
    assert not scratch.exists()
    assert tmp_path.exists()


def test_a_run_may_stay_at_a_url_and_what_was_sent_stays_with_the_driver() -> None:
    url = "mock://bucket/mifsim"
    with job_storage(job_spec(storage=url)) as storage_dir, inputs_of(storage_dir) as inputs:
        assert str(storage_dir / "x") == f"{url}/x"
        inputs.mkdir()  # on this machine, under a name that nobody had before
    assert not inputs.parent.exists()
    with job_storage(job_spec(storage="/tmp")) as storage_dir, inputs_of(storage_dir) as inputs:
        assert inputs == Path("/tmp/inputs")
    for storage in ("shared", "nowhere://x/y"):
        with pytest.raises(ValidationError, match=storage):
            job_spec(storage=storage)


def test_files_that_all_nodes_would_have_to_read_do_not_go_to_a_url(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_images(tmp_path / "images", images=12)
    data = {"set": "folder", "folder": "images", "size": [8, 8], "color": "gray"}
    study = write_study(tmp_path, data=data, attacks=[], victim={})
    said = fails(capsys, study, "--command", "simulate", "--storage", "mock://bucket/mifsim")
    assert "--storage mock://bucket/mifsim: data.folder = " in said
    assert "accepted with a URL: studies that name no file" in said


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", 130, 130), ("FAILED", None, 1), ("FAILED", -9, 1),
     ("STOPPED", None, 1), ("STOPPED", 0, 1)],
)  # fmt: skip
def test_the_exit_code_follows_the_job(status: str, code: int | None, expected: int) -> None:
    assert exit_code(SimpleNamespace(status=status, driver_exit_code=code)) == expected


@given(st.lists(st.tuples(st.lists(st.text("ab\n", max_size=6), max_size=5), st.integers(0, 30)), max_size=6))
def test_a_log_that_starts_anew_is_told_once(parts: list[tuple[list[str], int]]) -> None:
    whole = "".join(text for texts, _ in parts for text in texts)
    heard: list[str] = []
    told = client._Told(heard.append)
    for _, cut in parts:  # each connection gives the log from its start, in pieces, and breaks somewhere
        told.begin()
        for at in range(0, min(cut, len(whole)), 3):
            told(whole[at : min(at + 3, cut)])
    told.begin()
    told(whole)
    assert "".join(heard) == whole


def test_variables_of_ray_do_not_redirect_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://192.0.2.1:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://192.0.2.2:1")
    with client._only_this_address():
        assert not {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"} & set(os.environ)
    assert os.environ["RAY_ADDRESS"] == "http://192.0.2.1:1"


def test_a_packed_run_holds_whole_files_only_and_nobody_elses_eyes_see_it(tmp_path: Path) -> None:
    import tarfile

    run = tmp_path / "run"
    (run / "queries").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "queries" / "shard-000000.parquet").write_bytes(b"rows")
    (run / "queries" / ".shard-000001.parquet.partial").write_bytes(b"half of the rows")
    pack_run(run, tmp_path / "run.tar.gz")
    with tarfile.open(tmp_path / "run.tar.gz") as tar:
        assert tar.getnames() == ["queries/shard-000000.parquet", "run.json"]
    assert (tmp_path / "run.tar.gz").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_where_says_how_to_come_back() -> None:
    from cluster.submit import _again

    where = Where("http://192.0.2.1:8265", plain=True)
    arguments = _again("job-1", where, Path("runs/x")).split()
    assert arguments[:4] == ["mifsim", "submit", "--attach", "job-1"]
    from mifsim.cli import _parser

    options = _parser().parse_args(arguments[1:])
    assert (options.attach, options.address, options.out) == ("job-1", where.address, Path("runs/x"))
    assert options.plain_http


def test_the_driver_runs_what_was_ordered(tmp_path: Path) -> None:
    from cluster.bundle import pack
    from cluster.job import command_line
    from cluster.job_spec import BUNDLE_FILE
    from mifsim.cli import _parser
    from mifsim.study import Study

    strict = tmp_path / "strict.toml"
    strict.write_text("t_ssim = 0.9\nt_hash = 0.01\nn_b = 2\nl_sp = 3\n")
    study = Study.parse(SMALL)
    packed = pack(study, None, [strict])
    (tmp_path / BUNDLE_FILE).write_bytes(packed.content)
    storage_dir = tmp_path / "home"
    ordered = job_spec(command="matrix", run="mine", bundle=packed.digest, filters=[["strict", "filters/0.toml"]])
    options = _parser().parse_args(command_line(ordered, tmp_path, storage_dir, storage_dir / "inputs"))
    assert (str(options.out), options.address) == (str(storage_dir / "mine"), "auto")
    assert Study.load(options.study) == study
    ((name, file),) = options.filters
    assert (name, Path(file).read_bytes()) == ("strict", strict.read_bytes())
    # An interrupted run says itself what it was.
    (storage_dir / "mine").mkdir()
    (storage_dir / "mine" / "run.json").write_text(json.dumps({"tuning": {}}))
    arguments = command_line(
        job_spec(command="simulate", run="mine", resume=True), tmp_path, storage_dir, storage_dir / "inputs"
    )
    assert arguments == ["tune", "--resume", str(storage_dir / "mine"), "--address", "auto"]
