"""What `mifsim paper` refuses: arguments, and a folder that is not CelebA, before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mifsim.cli import main
from tests.data.small_sources import face_file, write_celeba


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "celeba"], "requires its folder: --dataset celeba=FOLDER"),
        (["--dataset", "celeba="], "no folder after ="),
        (["--dataset", "cifar=folder"], "accepted: mnist, mnist-5k, celeba, faces"),
        (["--dataset", "faces=folder"], "--dataset faces does not read a folder"),
        (["--dataset", "mnist=folder", "--data", "folder"], "must follow the --dataset"),
        (["--dataset", "mnist-5k", "--dataset", "celeba=nowhere", "--small"], "nowhere: no folder img_align_celeba"),
        (["--dataset", "mnist", "--dataset", "mnist-5k"], "both reproduce the same results"),
        (["--dataset", "faces", "--data", "folder"], "does not read a folder"),
        (["--trials", "2"], "accepted: 3 or more"),
        (["--data", "folder"], "must follow the --dataset"),
        (["--page-only"], "requires --out"),
        (["--page-only", "--out", "nowhere"], "no such file"),
        (["--dataset", "mnist", "--data", "nowhere", "--small"], "no such folder"),
        (["--filter", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_invalid_arguments_are_refused(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["paper", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def _half_size(tree: Path) -> None:
    cv2.imwrite(str(tree / "img_align_celeba" / face_file(3)), np.zeros((109, 89, 3), np.uint8))


def _other_lines(file: Path, old: str, new: str) -> None:
    file.write_text(re.sub(old, new, file.read_text()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: (t / "img_align_celeba" / face_file(3)).unlink(), r"img_align_celeba/000004\.jpg: listed in"),
        (lambda t: (t / "img_align_celeba" / "new.jpg").touch(), r"img_align_celeba/new\.jpg: not listed in"),
        (_half_size, r"img_align_celeba/000004\.jpg: 89 x 109 pixels"),
        (
            lambda t: _other_lines(t / "list_eval_partition.txt", "000004.jpg 0\n", ""),
            r"list_eval_partition\.txt: has no line for 000004\.jpg, which list_attr_celeba\.txt lists",
        ),
        (
            lambda t: _other_lines(t / "list_eval_partition.txt", " 2\n", " 1\n"),
            r"list_eval_partition\.txt: it leaves the users subset with no image of class Male",
        ),
    ],
    ids=["missing image", "additional image", "image of half the size", "lists that disagree", "class without users"],
)
def test_a_folder_that_is_not_celeba_is_refused_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, message: str
) -> None:
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "cache"))
    damage(write_celeba(tmp_path / "celeba"))
    arguments = ["--dataset", "mnist-5k", "--dataset", f"celeba={tmp_path / 'celeba'}", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as exit_:
        main(["paper", *arguments])
    assert exit_.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "cache" / "models").exists()
    assert not (tmp_path / "out").exists()
