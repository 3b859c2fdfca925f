"""The command line: what a user's mistakes get, and what Ctrl-C leaves."""

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
from mifsim.study import Study
from mifsim.tables.records import SCHEMAS
from tests.small import SMALL, small_study


def write_study(tmp_path: Path, **sections: object) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(tomli_w.dumps({**SMALL, **sections}))
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must be refused, and return what it says."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def idx(magic: int, *sizes: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in (magic, *sizes))


def test_a_misspelt_key_is_named_with_its_neighbour(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study = write_study(tmp_path, server={"transprt": "uint8"})
    said = fails(capsys, "simulate", study, "--out", tmp_path / "run")
    assert str(study) in said
    assert "server.transprt: unknown key; did you mean 'transport'?" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("attacks.0.noise=lots", "attacks.0: noise = 'lots'"),
        ("server.batch_size=0", "server.batch_size = 0"),
        ("nonsense", "--set nonsense: expected key=value"),
    ],
)
def test_a_wrong_override_is_refused(
    argument: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert said in fails(capsys, "simulate", write_study(tmp_path), "--set", argument)


def test_a_data_folder_without_files_says_what_to_put_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study = write_study(tmp_path, data={"set": "mnist", "folder": str(tmp_path)})
    said = fails(capsys, "simulate", study, "--out", tmp_path / "run")
    assert str(tmp_path) in said
    assert "train-images-idx3-ubyte" in said
    assert not (tmp_path / "run").exists()


def test_a_truncated_data_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for part, count in (("train", 60), ("t10k", 20)):
        images = idx(2051, count, 28, 28) + bytes(count * 784)
        labels = idx(2049, count) + bytes(k % 10 for k in range(count))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    short = tmp_path / "t10k-images-idx3-ubyte.gz"
    short.write_bytes(gzip.compress(idx(2051, 20, 28, 28) + bytes(20 * 784 - 5)))
    study = write_study(tmp_path, data={"set": "mnist", "folder": str(tmp_path)})
    assert short.name in fails(capsys, "simulate", study, "--out", tmp_path / "run")


def test_a_model_file_of_another_shape_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    model.save(tmp_path / "own.keras")
    study = write_study(tmp_path, victim={"file": str(tmp_path / "own.keras")})
    said = fails(capsys, "simulate", study, "--out", tmp_path / "run")
    assert "own.keras" in said
    assert "28" in said
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_model_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "own.keras").write_text("not a zip file")
    study = write_study(tmp_path, victim={"file": str(tmp_path / "own.keras")})
    assert "own.keras" in fails(capsys, "simulate", study, "--out", tmp_path / "run")


def test_a_policy_that_gives_too_little_is_refused_when_the_study_is_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = fails(capsys, "simulate", write_study(tmp_path), "--set", "server.response=label")
    assert "'mi-face' needs the confidence vector" in said


def test_an_address_where_no_cluster_answers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = fails(capsys, "simulate", write_study(tmp_path), "--backend", "in-process", "--address", "auto")
    assert ": requires --backend ray" in said


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "somewhere"])
def test_an_address_of_no_cluster_leaves_no_run(
    address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = fails(capsys, "simulate", write_study(tmp_path), "--address", address, "--out", tmp_path / "run")
    assert f"--address {address}: " in said
    assert not (tmp_path / "run").exists()


def test_resume_takes_no_study(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "--resume cannot be combined with STUDY" in fails(capsys, "simulate", "digits", "--resume", tmp_path)
    assert "no run.json" in fails(capsys, "simulate", "--resume", tmp_path)


def test_simulate_prints_the_closing_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study = write_study(tmp_path)
    main(["simulate", str(study), "--out", str(tmp_path / "run"), "--backend", "in-process", "--seed", "8"])
    said = capsys.readouterr().out
    for words in ("Attackers", "Honest users", "third", "mi-face", "retries", "test accuracy", str(tmp_path / "run")):
        assert words in said
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["status"], facts["seed"], facts["backend"]) == ("complete", 8, "in-process")
    assert Study.load(tmp_path / "run" / "study.toml") == small_study(seed=8)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_run_that_says_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    attack = {**SMALL["attacks"][0], "budget_queries": 1_000_000, "alpha": 1_000_000}
    study = write_study(tmp_path, attacks=[attack])
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "mifsim", "simulate", str(study), "--out", str(run), "--backend", "in-process"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Where the tests run in the background of a shell, Ctrl-C is ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 240
    while not list(run.glob("queries/.*.partial")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert f"mifsim simulate --resume {run}" in said
    assert "Traceback" not in said
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert not list(run.rglob("*.partial"))


def test_studies_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["studies"])
    assert "digits" in capsys.readouterr().out
    main(["studies", "digits"])
    assert 'name = "digits"' in capsys.readouterr().out


def test_columns_describe_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    main(["columns"])
    said = capsys.readouterr().out
    for table, schema in SCHEMAS.items():
        assert f"{table}" in said
        assert all(name in said for name in schema.names)
    assert "'sesions' is not a table" in fails(capsys, "columns", "sesions")


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_matrix_leaves_its_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    FilterConfig(0.9, 0.01, 2, 3).save(tmp_path / "filter.toml")
    QuotaConfig(3).save(tmp_path / "quota.toml")
    study = write_study(tmp_path, matrix={"evasions": [[], [{"decoys": 2}], [{"rotate": {}}]]})
    run = tmp_path / "run"
    given = ["--filter", str(tmp_path / "filter.toml"), "--filter", f"simple={tmp_path / 'quota.toml'}"]
    main(["matrix", str(study), *given, "--out", str(run), "--backend", "in-process"])
    attacks = pd.read_parquet(run / "matrix_attacks.parquet")
    assert sorted(attacks["evasions"].unique()) == ["", "decoys (between 2)", "rotate (clients 1)"]
    assert set(attacks["filter"]) == {"calibrated", "simple", "third", "strict"}
    assert len(attacks) == 12
    simple = attacks[attacks["filter"] == "simple"].set_index("evasions")
    assert simple.loc["", "queries_to_block"] == 4  # three are answered
    assert simple["clients_used"].eq(1).all()
    honest = pd.read_parquet(run / "matrix_users.parquet")
    assert set(honest["filter"]) == {"calibrated", "simple", "third", "strict"}
    assert "mi-face+rotate" in capsys.readouterr().out
    said = fails(capsys, "matrix", "--resume", run, "--filter", tmp_path / "filter.toml")
    assert "--resume cannot be combined with --filter" in said
    assert "nowhere.toml" in fails(capsys, "matrix", study, "--filter", tmp_path / "nowhere.toml")


def test_attacks_lists_each_with_what_it_needs_and_sends(capsys: pytest.CaptureFixture[str]) -> None:
    main(["attacks"])
    lines = capsys.readouterr().out.splitlines()
    for name in names("attacker"):
        (line,) = [line for line in lines if f"│ {name} " in line]
        assert getattr(client_class(name), "sends") in line  # noqa: B009 - users have none
    needs = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in lines if line.startswith("│")}
    assert needs["mi-face"] == "gradients"
    assert needs["nes"] == "confidence"
    assert needs["brep"] == "label"


def test_options_of_a_measurement_without_measure_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data, --out requires --measure" in fails(capsys, "attacks", "--data", "faces", "--out", "x").replace(
        "--out, --data", "--data, --out"
    )


def test_attacks_measure_runs_the_attacks_alone_and_leaves_a_verdict(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    study = write_study(
        tmp_path,
        attacks=[{"attack": "nes", "space": "pca", "coordinates": 4, "labels": [0, 1], "budget_queries": 40}],
    )
    main(["attacks", "--measure", "--study", str(study), "--out", str(tmp_path / "run"), "--backend", "in-process"])
    said = capsys.readouterr().out
    assert "Undefended attacks" in said
    table = pd.read_parquet(tmp_path / "run" / "attack_benchmark.parquet")
    assert list(table["population"]) == ["nes", "auxiliary images (no query)", "noise images (no query)"]
    assert list(table["answered_queries"]) == [40, 0, 0]
    sessions = pd.read_parquet(tmp_path / "run" / "sessions")
    assert set(sessions["role"]) == {"attacker"}
    assert set(sessions["filter"]) == {"no filter"}
