"""Whole runs with models of users: refused before anything is recorded, or read as the study says."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from mifsim.cli import main
from mifsim.errors import StudyError
from mifsim.run.inputs import load_inputs
from mifsim.run.simulate import simulate
from mifsim.study import Study
from reports.page import render
from tests.victims.tints import CLASSES, SHAPE, tint_model, tints

NAMES = tuple(CLASSES)
MAPPED = {"labels": ["yellow", "green", "red"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sub-folder of images for each class, and models."""
    root = tmp_path_factory.mktemp("own")
    data = tints()
    number = 0
    for pool in data.subsets.values():
        for image, label in zip(pool.images(np.arange(len(pool))), pool.labels, strict=True):
            path = root / "images" / NAMES[label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.rint(image[..., ::-1] * 255).astype(np.uint8))
            number += 1
    tint_model().save(root / "plain.keras")
    tint_model(order=(2, 0, 1)).save(root / "permuted.keras")
    return root


def table(folder: Path, model: str, **victim: Any) -> dict[str, Any]:
    return {
        "name": "own",
        "seed": 1,
        "data": {"set": "folder", "folder": str(folder / "images"), "size": list(SHAPE[:2])},
        "victim": {"file": str(folder / model), **victim},
        "server": {"batch_size": 16},
        "leakage": {"enabled": False},
        "filters": [{"none": True}],
        "users": [{"user": "independent", "sessions": 3, "length": {"min": 3, "max": 5}}],
        "attacks": [{"attack": "mi-face", "budget_queries": 30, "beta": 0, "gamma": 0.0}],
    }


def write_study(folder: Path, path: Path, model: str, **victim: Any) -> Path:
    import tomli_w

    path.write_text(tomli_w.dumps(table(folder, model, **victim)))
    return path


def queries(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "queries").sort_values(["session_id", "query"]).reset_index(drop=True)


@pytest.mark.parametrize("command", ["simulate", "attacks"])
def test_a_model_with_another_order_of_outputs_is_refused_and_nothing_is_recorded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    study = write_study(folder, tmp_path / "study.toml", "permuted.keras")
    run = tmp_path / "run"
    given = [str(study)] if command == "simulate" else ["--measure", "--study", str(study)]
    with pytest.raises(SystemExit) as ended:
        main([command, *given, "--out", str(run), "--backend", "in-process"])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "0.00% of 36 images" in message
    assert 'victim.labels = ["yellow", "green", "red"]' in message
    assert not run.exists()


def test_the_order_that_the_message_gives_leads_to_the_rows_of_a_model_in_the_datas_order(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every row is that of the same weights in the data's order: labels, confidences, and what an attack finds."""
    study = write_study(folder, tmp_path / "study.toml", "permuted.keras")
    override = 'victim.labels=["yellow", "green", "red"]'
    run = tmp_path / "mapped"
    main(["simulate", str(study), "--set", override, "--backend", "in-process", "--out", str(run)])
    assert "test accuracy 100.00% (95% interval 90.3% to 100.0%, of 36 images)" in capsys.readouterr().out
    control = simulate(Study.parse(table(folder, "plain.keras")), tmp_path / "control", backend="in-process")
    mapped, expected = queries(run), queries(Path(str(control)))
    pd.testing.assert_frame_equal(mapped, expected, check_exact=False, rtol=1e-4, atol=1e-5)
    assert expected["confidence"].max() > 0.99
    facts = json.loads((run / "run.json").read_text())["victim"]
    assert facts["labels"] == MAPPED["labels"]
    assert tomllib.loads((run / "study.toml").read_text())["victim"] == {
        "file": str(folder / "permuted.keras"), "labels": MAPPED["labels"], "output": "softmax",
    }  # fmt: skip


def test_an_accepted_accuracy_stands_in_the_run_and_on_its_page(folder: Path, tmp_path: Path) -> None:
    study = Study.parse(table(folder, "permuted.keras", accept_any_accuracy=True))
    run = simulate(study, tmp_path / "run", backend="in-process")
    facts = json.loads((run / "run.json").read_text())["victim"]
    assert facts["accept_any_accuracy"] is True
    assert facts["test_accuracy"] == 0
    page = render(run)
    assert "accepts any accuracy of the victim (victim.accept_any_accuracy = true)" in page
    assert "accuracy is not better than chance (33.33%): test accuracy 0.00%" in page
    assert "with victim.labels = [&#34;yellow&#34;, &#34;green&#34;, &#34;red&#34;]" in page
    assert tomllib.loads((run / "study.toml").read_text())["victim"]["accept_any_accuracy"] is True


def test_attacks_that_need_gradients_are_refused_where_the_model_has_none(folder: Path, tmp_path: Path) -> None:
    tint_model(kind="uint8", before=lambda images: images / 255).save(tmp_path / "whole.keras")
    study = table(folder, str(tmp_path / "whole.keras"))
    with pytest.raises(StudyError, match=r"'mi-face': needs gradients.*it receives whole numbers .accepted") as caught:
        load_inputs(Study.parse(study))
    assert "genetic" in str(caught.value)
    _, data, victim = load_inputs(Study.parse({**study, "attacks": []}))
    assert victim.test_accuracy == 1
    assert (
        victim.load(data.shape, 3, 8).predict(data.subset("users").images([0]), np.full(1, -1, np.int32))[0].max()
        > 0.99
    )


def test_a_study_with_every_key_is_the_same_after_it_was_written(folder: Path, tmp_path: Path) -> None:
    study = Study.parse(
        table(
            folder,
            "permuted.keras",
            input={"scale": 255, "offset": [-103.9, -116.8, -123.7], "channels": "bgr"},
            output="sigmoid",
            accept_any_accuracy=True,
            **MAPPED,
        )
    )
    study.save(tmp_path / "study.toml")
    again = Study.load(tmp_path / "study.toml")
    assert again == study
    assert again.fingerprint == study.fingerprint
    assert again.victim.input is not None
    assert again.victim.input.scale == (255,)


@pytest.mark.parametrize(
    ("victim", "message"),
    [
        ({"input": {"scale": 0}}, r"victim\.input\.scale.*the same for every image"),
        ({"input": {"scale": [1, 2]}}, r"victim\.input\.scale.*2 numbers .accepted: one number, or three"),
        ({"input": {"scales": 255}}, r"victim\.input\.scales: unknown key; did you mean 'scale'"),
        ({"input": {"channels": "gbr"}}, r"victim\.input\.channels = 'gbr'"),
        ({"input": {"offset": "mean"}}, r"victim\.input\.offset"),
        ({"labels": ["red", "red"]}, r"victim\.labels: 'red': more than once"),
        ({"output": "probabilities"}, r"victim\.output = 'probabilities'.*'softmax', 'logits' or 'sigmoid'"),
    ],
)
def test_invalid_keys_are_refused_when_the_study_is_read(folder: Path, victim: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        Study.parse(table(folder, "plain.keras", **victim))
    with pytest.raises(StudyError, match="applies to an existing model"):
        Study.parse({**table(folder, "plain.keras"), "victim": {"labels": ["red"]}})
