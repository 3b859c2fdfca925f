"""The images of a run as the model receives them: which ones, and on the report page."""

import json

import cv2
import numpy as np
import pytest

from mifsim.data import load_data
from mifsim.run.folder import RunFolder
from mifsim.run.samples import COLUMNS, write_model_input
from reports.model_input import model_input, repeating
from tests.data.small_sources import write_image
from tests.small import small_study


def written(tmp_path, study):
    """Return the file, as (H, W) or (H, W, 3) in RGB, the facts, and the run."""
    data = load_data(study.data)
    run = RunFolder.create(tmp_path / "run", study)
    write_model_input(run, study, data)
    sheet = cv2.imread(str(run.path / "model_input.png"), cv2.IMREAD_UNCHANGED)
    return sheet if sheet.ndim == 2 else sheet[..., ::-1], run.facts["model_input"], data, run


def tiles(sheet, side):
    return [sheet[:side, at : at + side] for at in range(0, sheet.shape[1], side + 2)]


def test_eight_images_of_users_of_the_classes_in_turn(tmp_path):
    sheet, facts, data, _ = written(tmp_path, small_study())
    users = data.subset("users")
    assert sheet.shape == (28, COLUMNS * 30 - 2)
    for label, tile in enumerate(tiles(sheet, 28)):
        first = int(np.flatnonzero(users.labels == label)[0])
        np.testing.assert_array_equal(tile, np.rint(users.image(first) * 255))
    assert facts == [{"source": "the honest users' images of mnist-5k", "images": 8, "classes": list("01234567")}]


def test_they_have_passed_the_transport(tmp_path):
    plain, *_ = written(tmp_path / "plain", small_study())
    coarse, *_ = written(tmp_path / "coarse", small_study(server={"transport": "jpeg-10"}))
    assert plain.shape == coarse.shape
    assert 2 < np.abs(plain.astype(int) - coarse).mean() < 40


def test_few_classes_give_several_images_each_and_each_log_has_a_row(tmp_path):
    for seed, name in ((0, "cats"), (100, "dogs")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(20):
            write_image(tmp_path / "pets" / name / f"{number}.png", seed + number, (12, 12))
    (tmp_path / "log" / "c").mkdir(parents=True)
    for number in range(3):
        write_image(tmp_path / "log" / "c" / f"{number}.png", 200 + number, (12, 12))
    users = [{"user": "log", "path": str(tmp_path / "log"), "sessions": "all"}]
    study = small_study(
        data={"set": "folder", "folder": str(tmp_path / "pets"), "images_per_class": None}, attacks=[], users=users
    )
    sheet, facts, _, run = written(tmp_path, study)
    assert sheet.shape == (2 * 14 - 2, COLUMNS * 14 - 2, 3)
    assert facts[0]["classes"] == ["cats", "dogs"] * 4
    assert facts[1] == {"source": f"the log {tmp_path / 'log'}", "images": 3, "classes": []}
    for number, tile in enumerate(tiles(sheet[14:], 12)[:3]):
        expected = cv2.imread(str(tmp_path / "log" / "c" / f"{number}.png"))[..., ::-1]
        np.testing.assert_array_equal(tile, expected)
    assert (sheet[14:, 3 * 14 :] == 255).all()
    shown = model_input(run.path, {**run.facts, "data": {"shape": [12, 12, 3]}})
    assert shown.rows[1] == f"Row 2: 3 images from the log {tmp_path / 'log'}"


FACTS = {
    "data": {
        "shape": [16, 16],
        "preprocessing": {"fit": "cut", "images": 80, "cut": 40, "mean_cut_away": 0.6667, "transparent": 2},
    },
    "model_input": [{"source": "the honest users' images of folder x", "images": 8, "classes": ["a", "b"]}],
    "pools": {"one-class": {"needed": 100, "available": 50, "one_class": True}},
}


def test_the_page_shows_the_images_and_what_was_done_to_them(tmp_path):
    (tmp_path / "model_input.png").write_bytes(cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes())
    shown = model_input(tmp_path, FACTS)
    assert shown.uri.startswith("data:image/png;base64,")
    assert shown.description.startswith(
        "16 × 16 pixels (height × width) in grey. Files of another aspect ratio are cut"
    )
    assert shown.rows == ("8 images from the honest users' images of folder x, of the classes a, b",)
    assert shown.losses[0].startswith("40 of 80 files lose 67% of their area on average")
    assert "2 files have transparent pixels" in shown.losses[1]


def test_a_run_without_such_images_has_no_section(tmp_path):
    assert model_input(tmp_path, FACTS) is None
    assert model_input(tmp_path, json.loads("{}")) is None


def test_workloads_that_repeat_images_are_named_with_the_numbers():
    (line,) = repeating(FACTS)
    assert line.startswith("Sessions of one-class can need 100 different images of one class, but have 50.")
    assert repeating({}) == []


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_the_ways_of_fitting_are_named(tmp_path, fit):
    (tmp_path / "model_input.png").write_bytes(b"x")
    facts = {**FACTS, "data": {"shape": [16, 16, 3], "preprocessing": {"fit": fit, "images": 80, "cut": 0}}}
    shown = model_input(tmp_path, facts)
    assert {"squash": "squashed", "pad": "padded with bars"}[fit] in shown.description
    assert "in colour" in shown.description
    assert shown.losses == ()
