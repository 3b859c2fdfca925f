"""The examples of models of one's own run from end to end: an ONNX file, and a PyTorch model by plug-in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from mifsim import read_run
from mifsim.cli import main
from mifsim.plugins import unload_plugins
from mifsim.study import Study

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["attacks.0.labels=[0,3]", "attacks.0.budget_queries=20", "users.0.sessions=3", "leakage.enabled=false"]


def simulated(study: Path, *options: str) -> Path:
    out = study.parent / "run"
    changes = [part for change in SMALL for part in ("--set", change)]
    main(["simulate", str(study), "--out", str(out), "--backend", "in-process", *changes, *options])
    return out


def test_the_onnx_example_runs(tmp_path: Path) -> None:
    for name in ("onnx_model.py", "onnx.toml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    subprocess.run([sys.executable, tmp_path / "onnx_model.py", tmp_path / "digits.onnx"], check=True)
    run = read_run(simulated(tmp_path / "onnx.toml"))
    assert run.complete
    assert run.facts["victim"]["test_accuracy"] > 0.85
    assert run.facts["victim"]["layout"] == "channels-first"
    assert set(run.table("sessions")["population"]) == {"nes", "independent"}


def test_the_pytorch_example_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    plugin, weights = EXAMPLES / "torch_model.py", tmp_path / "digits.pt"
    subprocess.run([sys.executable, plugin, weights], check=True)
    table = Study.load(EXAMPLES / "onnx.toml").to_toml()
    table["victim"] = {"plugin": "torch-digits", "arguments": {"weights": str(weights)}}
    study = tmp_path / "study.toml"
    study.write_text(tomli_w.dumps(table))
    try:
        run = simulated(study, "--plugin", str(plugin))
    finally:
        unload_plugins()
    facts = json.loads((run / "run.json").read_text())
    assert facts["victim"]["plugin"] == "torch-digits"
    assert facts["victim"]["test_accuracy"] > 0.9
