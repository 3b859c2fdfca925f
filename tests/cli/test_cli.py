"""The command line: error messages for invalid input, the output of each command, and interrupted runs."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import tomli_w

from mifsim.cli import main
from mifsim.clients import client_class, names
from mifsim.defense import FilterConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.errors import RunError
from mifsim.study import Study
from mifsim.tables.records import SCHEMAS
from tests.small import SMALL, small_study


def write_study(tmp_path: Path, **sections: object) -> Path:
    """Write the small study with some sections replaced; return its path."""
    path = tmp_path / "study.toml"
    path.write_text(tomli_w.dumps({**SMALL, **sections}))
    return path


def error_message(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must be refused; return the error message."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def idx_header(magic: int, *sizes: int) -> bytes:
    """Return the header of an IDX file."""
    return b"".join(number.to_bytes(4, "big") for number in (magic, *sizes))


def test_a_misspelt_key_is_reported_with_the_most_similar_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    study = write_study(tmp_path, server={"transprt": "uint8"})
    message = error_message(capsys, "simulate", study, "--out", tmp_path / "run")
    assert str(study) in message
    assert "server.transprt: unknown key; did you mean 'transport'?" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("attacks.0.noise=lots", "attacks.0: noise = 'lots'"),
        ("server.batch_size=0", "server.batch_size = 0"),
        ("nonsense", "--set nonsense: expected key=value"),
    ],
)
def test_an_invalid_override_is_refused(
    argument: str, expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert expected in error_message(capsys, "simulate", write_study(tmp_path), "--set", argument)


def test_a_data_folder_without_files_is_reported_with_the_missing_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    study = write_study(tmp_path, data={"set": "mnist", "folder": str(tmp_path)})
    message = error_message(capsys, "simulate", study, "--out", tmp_path / "run")
    assert str(tmp_path) in message
    assert "train-images-idx3-ubyte" in message
    assert not (tmp_path / "run").exists()


def test_a_truncated_data_file_is_reported_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for part, count in (("train", 60), ("t10k", 20)):
        images = idx_header(2051, count, 28, 28) + bytes(count * 784)
        labels = idx_header(2049, count) + bytes(k % 10 for k in range(count))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    truncated = tmp_path / "t10k-images-idx3-ubyte.gz"
    truncated.write_bytes(gzip.compress(idx_header(2051, 20, 28, 28) + bytes(20 * 784 - 5)))
    study = write_study(tmp_path, data={"set": "mnist", "folder": str(tmp_path)})
    assert truncated.name in error_message(capsys, "simulate", study, "--out", tmp_path / "run")


def test_a_model_file_with_another_input_shape_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    model.save(tmp_path / "own.keras")
    study = write_study(tmp_path, victim={"file": str(tmp_path / "own.keras")})
    message = error_message(capsys, "simulate", study, "--out", tmp_path / "run")
    assert "own.keras" in message
    assert "28" in message
    assert not (tmp_path / "run").exists()


def test_an_invalid_model_file_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "own.keras").write_text("not a zip file")
    study = write_study(tmp_path, victim={"file": str(tmp_path / "own.keras")})
    assert "own.keras" in error_message(capsys, "simulate", study, "--out", tmp_path / "run")


def test_a_response_policy_that_an_attack_cannot_use_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = error_message(capsys, "simulate", write_study(tmp_path), "--set", "server.response=label")
    assert "'mi-face' needs the confidence vector" in message


def test_an_address_requires_the_ray_backend(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = error_message(capsys, "simulate", write_study(tmp_path), "--backend", "in-process", "--address", "auto")
    assert ": requires --backend ray" in message


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "somewhere"])
def test_an_address_without_a_cluster_is_refused_before_a_run_folder_exists(
    address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = error_message(capsys, "simulate", write_study(tmp_path), "--address", address, "--out", tmp_path / "run")
    assert f"--address {address}: " in message
    assert not (tmp_path / "run").exists()


def test_resume_cannot_be_combined_with_a_study_and_needs_a_run_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "--resume cannot be combined with STUDY" in error_message(capsys, "simulate", "digits", "--resume", tmp_path)
    assert "no run.json" in error_message(capsys, "simulate", "--resume", tmp_path)


def test_simulate_prints_a_summary_and_records_seed_and_backend(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    study = write_study(tmp_path)
    main(["simulate", str(study), "--out", str(tmp_path / "run"), "--backend", "in-process", "--seed", "8"])
    output = capsys.readouterr().out
    for words in ("Attackers", "Honest users", "third", "mi-face", "retries", "test accuracy", str(tmp_path / "run")):
        assert words in output
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["status"], facts["seed"], facts["backend"]) == ("complete", 8, "in-process")
    assert Study.load(tmp_path / "run" / "study.toml") == small_study(seed=8)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_is_marked_and_its_resume_command_is_printed(number: signal.Signals, tmp_path: Path) -> None:
    attack = {**SMALL["attacks"][0], "budget_queries": 1_000_000, "alpha": 1_000_000}
    study = write_study(tmp_path, attacks=[attack])
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "mifsim", "simulate", str(study), "--out", str(run), "--backend", "in-process"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Processes in the background of a shell ignore SIGINT, and child processes inherit this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 240
    while not list(run.glob("queries/.*.partial")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(number)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 130, log
    assert f"mifsim simulate --resume {run}" in log
    assert "Traceback" not in log
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert not list(run.rglob("*.partial"))


def test_studies_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["studies"])
    assert "digits" in capsys.readouterr().out
    main(["studies", "digits"])
    assert 'name = "digits"' in capsys.readouterr().out


def test_columns_describe_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    main(["columns"])
    output = capsys.readouterr().out
    for table, schema in SCHEMAS.items():
        assert f"{table}" in output
        assert all(name in output for name in schema.names)
    assert "'sesions' is not a table" in error_message(capsys, "columns", "sesions")


def test_the_help_is_printed_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "examples:" in capsys.readouterr().out


def test_importing_the_package_loads_neither_ray_nor_tensorflow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, mifsim; print(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "mifsim.defense" in loaded
    assert not {"ray", "tensorflow", "keras", "pandas", "pyarrow", "pydantic", "numba"} & loaded


def test_matrix_writes_its_tables_and_refuses_invalid_filter_options(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    FilterConfig(0.9, 0.01, 2, 3).save(tmp_path / "filter.toml")
    QuotaConfig(3).save(tmp_path / "quota.toml")
    study = write_study(tmp_path, matrix={"evasions": [[], [{"decoys": 2}], [{"rotate": {}}]]})
    run = tmp_path / "run"
    filter_options = ["--filter", str(tmp_path / "filter.toml"), "--filter", f"simple={tmp_path / 'quota.toml'}"]
    main(["matrix", str(study), *filter_options, "--out", str(run), "--backend", "in-process"])
    attacks = pd.read_parquet(run / "matrix_attacks.parquet")
    assert sorted(attacks["evasions"].unique()) == ["", "decoys (between 2)", "rotate (clients 1)"]
    assert set(attacks["filter"]) == {"calibrated", "simple", "third", "strict"}
    assert len(attacks) == 12
    simple = attacks[attacks["filter"] == "simple"].set_index("evasions")
    assert simple.loc["", "queries_to_block"] == 4  # the quota allows three answers
    assert simple["clients_used"].eq(1).all()
    users = pd.read_parquet(run / "matrix_users.parquet")
    assert set(users["filter"]) == {"calibrated", "simple", "third", "strict"}
    assert "mi-face+rotate" in capsys.readouterr().out
    message = error_message(capsys, "matrix", "--resume", run, "--filter", tmp_path / "filter.toml")
    assert "--resume cannot be combined with --filter" in message
    assert "nowhere.toml" in error_message(capsys, "matrix", study, "--filter", tmp_path / "nowhere.toml")


def test_leave_out_sets_the_key_of_the_study_and_refuses_invalid_combinations(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []

    def stop(study: Study, out: object, **where: object) -> None:
        given.append(study.tuning.leave_out)
        raise RunError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("tuning.tune.tune", stop)
        for options in ([], ["--leave-out"], ["--set", "tuning.leave_out=true"]):
            error_message(capsys, "tune", write_study(tmp_path), *options)
    assert given == [False, True, True]

    one = [{"user": "bursts", "sessions": 2000, "length": 8}]
    run = tmp_path / "run"
    message = error_message(capsys, "tune", write_study(tmp_path, users=one), "--leave-out", "--out", run)
    assert "tuning.leave_out = true: needs at least two workloads, but 'bursts' is the only one" in message
    assert not run.exists()
    assert "--resume cannot be combined with --leave-out" in error_message(
        capsys, "tune", "--resume", run, "--leave-out"
    )


def test_attacks_lists_the_needed_output_and_the_queries_of_each_attack(capsys: pytest.CaptureFixture[str]) -> None:
    main(["attacks"])
    lines = capsys.readouterr().out.splitlines()
    for name in names("attacker"):
        (line,) = [line for line in lines if f"│ {name} " in line]
        assert getattr(client_class(name), "sends") in line  # noqa: B009 - users have no such attribute
    needs = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in lines if line.startswith("│")}
    assert needs["mi-face"] == "gradients"
    assert needs["nes"] == "confidence"
    assert needs["brep"] == "label"


def test_measurement_options_without_measure_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data, --out requires --measure" in error_message(
        capsys, "attacks", "--data", "faces", "--out", "x"
    ).replace("--out, --data", "--data, --out")


def test_attacks_measure_runs_only_the_attacks_unfiltered_and_writes_a_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    study = write_study(
        tmp_path,
        attacks=[{"attack": "nes", "space": "pca", "coordinates": 4, "labels": [0, 1], "budget_queries": 40}],
    )
    main(["attacks", "--measure", "--study", str(study), "--out", str(tmp_path / "run"), "--backend", "in-process"])
    output = capsys.readouterr().out
    assert "Undefended attacks" in output
    table = pd.read_parquet(tmp_path / "run" / "attack_benchmark.parquet")
    baselines = ["auxiliary images (no query)", "noise images (no query)", "labelled auxiliary images (only labels)"]
    assert list(table["population"]) == ["nes", *baselines]
    # The labelled baseline asks for the label of each of the 40 auxiliary images, a tenth of the data.
    assert list(table["answered_queries"]) == [40, 0, 0, 40]
    sessions = pd.read_parquet(tmp_path / "run" / "sessions")
    assert set(sessions["role"]) == {"attacker"}
    assert set(sessions["filter"]) == {"no filter"}
