"""`mifsim submit` without a cluster: addresses, refused input, exit codes, interrupted logs."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from cluster import client
from cluster.client import Cluster, check_address
from cluster.submit import Where, exit_code
from mifsim.cli import main
from mifsim.cli.command import _parser
from mifsim.errors import RunError
from tests.cluster.nodes import free_port
from tests.cluster.test_bundle import write_images
from tests.small import SMALL


def error_message(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run `mifsim submit` with arguments that must be refused; return the error message."""
    with pytest.raises(SystemExit) as exit_:
        main(["submit", *map(str, arguments)])
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def write_study(folder: Path, **sections: object) -> Path:
    """Write the small study with some sections replaced; return its path."""
    file = folder / "study.toml"
    file.write_text(tomli_w.dumps({**SMALL, **sections}))
    return file


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "http://localhost:8265/", "http://[::1]:8265", "https://ray.example.org"]
)
def test_a_token_is_sent_to_this_machine_or_over_tls(address: str) -> None:
    assert check_address(address) == address.rstrip("/")


@pytest.mark.parametrize("host", ["192.0.2.1", "ray.example.org", "127.0.0.1.example.org", "[2001:db8::1]"])
def test_a_token_is_sent_unencrypted_only_with_plain_http(host: str) -> None:
    with pytest.raises(RunError, match=r"unencrypted; open a tunnel .* or add --plain-http"):
        check_address(f"http://{host}:8265")
    assert check_address(f"http://{host}:8265", plain=True) == f"http://{host}:8265"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8265", "ray://127.0.0.1:10001", "auto", "http://", "http://127.0.0.1:x", "os://x", ""]
)
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(RunError, match="not the address of a job API"):
        check_address(address, plain=True)


def test_an_address_that_does_not_answer_is_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    address = f"http://127.0.0.1:{free_port()}"
    message = error_message(
        capsys, write_study(tmp_path), "--command", "simulate", "--address", address, "--out", tmp_path / "r"
    )
    assert f"{address}: no Ray head answers" in message
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected exactly one of STUDY, --attach JOB and --resume RUN"),
        (["digits", "--attach", "job"], "expected exactly one of STUDY"),
        (["--attach", "job", "--set", "seed=1"], "the job has its own"),
        (["digits", "--filter", "a.toml"], "--filter requires --command matrix"),
        (["digits", "--command", "simulate", "--leave-out"], "--leave-out requires --command tune, not simulate"),
        (["--attach", "job", "--leave-out"], "--leave-out, --filter or --storage: the job has its own"),
        (["digits", "--command", "simulate", "--storage", "shared"], "--storage shared: must be an absolute path"),
        (["--resume", "runs/x"], "must be the run's absolute path on the cluster"),
        (
            ["digits", "--command", "simulate", "--storage", "mock://b/x", "--out", "runs/x"],
            "the run stays at mock://b/x",
        ),
        (["--resume", "mock://b/x", "--out", "runs/x"], "the run stays at mock://b/x"),
        (["digits", "--storage", "nowhere://b/x"], "nowhere://b/x: pyarrow cannot open a file system"),
    ],
)
def test_incompatible_or_invalid_options_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_message(capsys, *arguments)


def test_a_study_is_checked_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(self: Cluster, address: str) -> None:
        raise AssertionError("connected before the study was checked")

    monkeypatch.setattr(Cluster, "__init__", connect)
    assert "did you mean 'transport'?" in error_message(capsys, write_study(tmp_path, server={"transprt": "uint8"}))
    assert "filters: missing" in error_message(capsys, write_study(tmp_path, filters=[]), "--command", "simulate")
    one = [{"user": "bursts", "sessions": 2000}]
    assert "needs at least two workloads" in error_message(capsys, write_study(tmp_path, users=one), "--leave-out")
    # Too few sessions for the limit: mifsim submit reports the same error as mifsim tune.
    assert "sessions" in error_message(capsys, write_study(tmp_path))
    write_images(tmp_path / "images", images=12)
    (tmp_path / "images" / "class 1" / "3.png").write_bytes(b"no image")
    data = {"set": "folder", "folder": "images", "size": [8, 8], "colour": "grey"}
    damaged = write_study(tmp_path, data=data, attacks=[], victim={})
    assert "3.png: neither PNG, JPEG, WebP nor PGM" in error_message(capsys, damaged, "--command", "simulate")


def test_a_model_with_code_in_it_is_not_sent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = keras.layers.Lambda(lambda x: x)
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), code, keras.layers.Dense(10, "softmax")]
    )
    model.save(tmp_path / "model.keras")
    message = error_message(capsys, write_study(tmp_path, victim={"file": "model.keras"}), "--command", "simulate")
    assert "contains Python code" in message


def test_a_study_that_names_files_is_refused_with_a_url(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_images(tmp_path / "images", images=20)
    data = {"set": "folder", "folder": "images", "size": [8, 8], "colour": "grey"}
    study = write_study(tmp_path, data=data, attacks=[], victim={})
    message = error_message(capsys, study, "--command", "simulate", "--storage", "mock://bucket/mifsim")
    assert "--storage mock://bucket/mifsim: data.folder = " in message
    assert "accepted with a URL: studies that name no file" in message


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", 130, 130), ("FAILED", None, 1), ("FAILED", -9, 1),
     ("STOPPED", None, 1), ("STOPPED", 0, 1)],
)  # fmt: skip
def test_the_exit_code_follows_the_job(status: str, code: int | None, expected: int) -> None:
    assert exit_code(SimpleNamespace(status=status, driver_exit_code=code)) == expected


@given(st.lists(st.tuples(st.lists(st.text("ab\n", max_size=6), max_size=5), st.integers(0, 30)), max_size=6))
def test_a_log_is_written_once_across_reconnections(parts: list[tuple[list[str], int]]) -> None:
    whole = "".join(text for texts, _ in parts for text in texts)
    written: list[str] = []
    log = client._LogWriter(written.append)
    for _, cut in parts:  # each connection sends the log from its start, in chunks, and breaks at `cut`
        log.restart()
        for start in range(0, min(cut, len(whole)), 3):
            log(whole[start : min(start + 3, cut)])
    log.restart()
    log(whole)
    assert "".join(written) == whole


def test_rays_environment_variables_do_not_redirect_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://192.0.2.1:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://192.0.2.2:1")
    with client._only_this_address():
        assert not {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"} & set(os.environ)
    assert os.environ["RAY_ADDRESS"] == "http://192.0.2.1:1"


def test_the_printed_attach_command_is_accepted() -> None:
    from cluster.submit import attach_command

    where = Where("http://192.0.2.1:8265", plain=True)
    arguments = attach_command("job-1", where, Path("runs/x")).split()
    assert arguments[:4] == ["mifsim", "submit", "--attach", "job-1"]
    options = _parser().parse_args(arguments[1:])
    assert (options.attach, options.address, options.out) == ("job-1", where.address, Path("runs/x"))
    assert options.plain_http


def test_attach_cannot_be_combined_with_a_plugin(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--attach cannot be combined with --plugin" in error_message(capsys, "--attach", "job-1", "--plugin", plugin)
