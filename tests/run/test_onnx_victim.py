"""Whole runs with the same model as a keras file and as an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest

from mifsim.cli import main
from mifsim.data import DataConfig, load_data
from mifsim.errors import RunError
from mifsim.run.folder import RunFolder
from mifsim.run.inputs import data_facts, load_inputs
from mifsim.run.simulate import resume_simulation, simulate
from mifsim.study import Study
from mifsim.victims import ModelSource, VictimConfig
from reports.page import write_page
from tests.run.victims import black_box_study, label_study, rows, two_files
from tests.small import small_study
from tests.tuning.studies import serial_search
from tests.victims.onnx_models import linear_weights, node, save_graph
from tuning.confirm import compare
from tuning.tune import tune


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_files(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def calibrations(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same calibration with the keras file and with the ONNX file."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuning.search.search", serial_search)
        return [tune(black_box_study(file=file), folder / file.suffix[1:], backend="in-process") for file in files]


def test_the_onnx_file_gives_the_labels_of_the_keras_file_for_all_digits(files: tuple[Path, Path]) -> None:
    data = load_data(DataConfig(set="mnist-5k"))
    images = np.concatenate([pool.images(np.arange(len(pool))) for pool in data.subsets.values()])
    assert len(images) == 5000
    confidence = []
    for file in files:
        engine = ModelSource(file.read_bytes(), VictimConfig(file=file)).engine(data.shape, 10)
        confidence.append(engine.predict(images, np.full(5000, -1, np.int32))[0])
    np.testing.assert_array_equal(confidence[0].argmax(axis=1), confidence[1].argmax(axis=1))
    np.testing.assert_allclose(confidence[0], confidence[1], atol=1e-5)


def test_a_calibration_against_black_box_attacks_has_the_same_outcome(calibrations: list[Path]) -> None:
    trials = [pd.read_parquet(run / "trials").drop(columns="elapsed_seconds") for run in calibrations]
    pd.testing.assert_frame_equal(*trials, check_exact=True)
    assert len(trials[0]) == 12
    assert set(rows(calibrations[0], "sessions")["population"]) >= {
        "error-rate",
        "brep",
        "nes",
        "spsa",
        "genetic",
        "mi-face-numeric",
    }
    for table in ("sessions", "queries"):
        one, two = (rows(run, table) for run in calibrations)
        same = [name for name in one if "confidence" not in name]
        pd.testing.assert_frame_equal(one[same], two[same], check_exact=True)
        pd.testing.assert_frame_equal(one, two, atol=1e-5)
    keras_run, onnx_run = (json.loads((run / "run.json").read_text()) for run in calibrations)
    assert keras_run["tuning"]["chosen"] == onnx_run["tuning"]["chosen"] is not None
    assert keras_run["tuning"]["confirmed_sessions"] == onnx_run["tuning"]["confirmed_sessions"] > 0
    assert keras_run["victim"]["test_accuracy"] == onnx_run["victim"]["test_accuracy"] > 0.5
    assert onnx_run["victim"]["deterministic"] is True
    assert keras_run["victim"]["fingerprint"] != onnx_run["victim"]["fingerprint"]


def test_sessions_that_differ_from_the_replay_are_counted_if_the_victim_is_not_deterministic(
    calibrations: list[Path],
) -> None:
    sessions = rows(calibrations[1], "sessions")
    live = {
        key: None if pd.isna(query) else int(query)
        for key, query in zip(sessions["session_id"], sessions["queries_to_block"], strict=True)
    }
    expected = {**live, next(iter(live)): 1234}
    assert compare(calibrations[1], live) == len(live)
    assert compare(calibrations[1], expected, exact=False) == len(live) - 1
    with pytest.raises(RunError, match=r"1 of .* differ from replay"):
        compare(calibrations[1], expected)
    with pytest.raises(RunError, match="did not run"):
        compare(calibrations[1], {**expected, "another": None}, exact=False)


def test_an_attack_that_needs_gradients_is_refused_when_the_study_is_read(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tomli_w

    study = tmp_path / "study.toml"
    study.write_text(tomli_w.dumps(small_study().to_toml()))
    assert Study.load(study, [f"victim={{file='{files[0]}'}}"]).victim.gives_gradients
    for command in ("simulate", "tune"):
        arguments = [command, str(study), "--set", f"victim={{file='{files[1]}'}}", "--out", str(tmp_path / "run")]
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert not (tmp_path / "run").exists()
        message = capsys.readouterr().err
        assert f"'mi-face' needs gradients, which only keras models give; the victim is file = {files[1]}" in message
        suggested = message.partition("accepted: attacks without gradients, ")[2].strip().rstrip(")").split(", ")
        assert {"mi-face-numeric", "nes", "spsa", "brep", "genetic", "error-rate"} <= set(suggested)
        assert "mi-face" not in suggested


def test_a_resumed_run_requires_the_same_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    copied = tmp_path / "own.onnx"
    copied.write_bytes(files[1].read_bytes())
    plain = label_study(file=copied).to_toml()
    study, data, victim = load_inputs(Study.parse({**plain, "filters": [{"none": True}], "users": plain["users"][:1]}))
    RunFolder.create(tmp_path / "run", study, data=data_facts(data), victim=victim.facts).finish("interrupted")
    other = onnx.load(copied)
    other.producer_name = "another exporter"
    copied.write_bytes(other.SerializeToString())
    with pytest.raises(RunError, match="the victim has fingerprint"):
        resume_simulation(tmp_path / "run", backend="in-process")
    copied.write_bytes(files[1].read_bytes())
    run = resume_simulation(tmp_path / "run", backend="in-process")
    assert json.loads((run / "run.json").read_text())["status"] == "complete"


def test_a_victim_that_is_not_deterministic_is_noted_in_the_run_and_on_its_page(tmp_path: Path) -> None:
    weights, bias = linear_weights(784, 10)
    nodes = [
        node("Flatten", "images", "flat"),
        node("Gemm", "flat w b", "z"),
        node("RandomNormalLike", "z", "noise", scale=0.01),
        node("Add", "z noise", "noisy"),
        node("Softmax", "noisy", "classes", axis=1),
    ]
    file = save_graph(
        tmp_path / "m.onnx", nodes, {"w": weights, "b": bias}, {"images": ("n", 28, 28)}, {"classes": ("n", 10)}
    )
    attack = {"attack": "nes", "labels": [0], "budget_queries": 20}
    study = Study.parse(
        {
            **label_study(file=file, accept_any_accuracy=True).to_toml(),
            "server": {"batch_size": 16},
            "attacks": [attack],
        }
    )
    run = simulate(study, tmp_path / "run", backend="in-process")
    facts = json.loads((run / "run.json").read_text())["victim"]
    assert facts["deterministic"] is False
    page = write_page(run).read_text()
    assert "The victim is not deterministic" in page
    assert "rows differ between runs" in page
