"""Attackers with generators and shared queries in a whole run: their rows, and what a resumed run refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mifsim.errors import RunError, StudyError
from mifsim.run.folder import RunFolder
from mifsim.run.lifecycle import study_to_resume
from mifsim.run.simulate import simulate
from mifsim.study import Study
from reports.tables import sessions
from tests.clients.test_generators import write
from tests.small import SMALL, small_study

ATTACKS = [
    {
        "attack": "surrogate-search", "labels": [0, 3], "space": "pca", "pool": 12, "networks": 1, "epochs": 1,
        "turns": 1, "queries": 5, "budget_queries": 20,
    },
    {"attack": "brep", "labels": [0], "space": "gan", "generator": "g.onnx", "budget_queries": 6},
]  # fmt: skip


def study_in(folder: Path) -> Study:
    """Return a study with a generator, whose path is relative to the folder of the study's file."""
    write(folder / "g.onnx", ("n", 4), (28, 28))
    parts = {"attacks": ATTACKS, "filters": [{"none": True}], "users": [], "leakage": {"enabled": False}}
    return Study.parse({**SMALL, **parts}, base=folder)


def test_a_run_states_the_shared_queries_and_the_generators(tmp_path: Path) -> None:
    run = simulate(study_in(tmp_path), tmp_path / "run", backend="in-process")
    rows = sessions(run).set_index("session_id")
    assert rows["outcome"].astype(str).tolist() == ["finished", "finished", "exhausted"]
    assert rows["answered_queries"].tolist() == [17, 17, 6]
    assert rows["shared_queries"].tolist() == [12, 12, 0]
    assert list(json.loads((tmp_path / "run" / "run.json").read_text())["generators"]) == ["brep"]


def test_a_run_with_another_generator_is_not_resumed(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", study_in(tmp_path))
    run.finish("interrupted")
    assert study_to_resume(run).attacks[1].name == "brep"
    write(tmp_path / "g.onnx", ("n", 4), (28, 28), "Tanh")
    with pytest.raises(RunError, match=r"generator = .*g\.onnx: has digest \w+, the run started with \w+"):
        study_to_resume(run)


def test_a_generator_of_other_images_is_refused_before_a_run_starts(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    write(tmp_path / "g.onnx", ("n", 4), (20, 20))
    with pytest.raises(StudyError, match=r"g\.onnx: gives float32 of shape"):
        simulate(study, tmp_path / "run", backend="in-process")
    assert not (tmp_path / "run").exists()


def test_the_digest_of_a_study_without_a_generator_is_unchanged() -> None:
    (nes,) = small_study(attacks=[{"attack": "nes"}]).to_toml()["attacks"]
    assert "generator" not in nes
