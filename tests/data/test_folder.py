"""The data set `folder`: one sub-folder of images for each class."""

import os

import cv2
import numpy as np
import pytest

from mifsim.data import DataConfig, load_data
from mifsim.errors import DataError
from tests.data.small_sources import write_image, write_pets


@pytest.fixture
def folder(tmp_path):
    return write_pets(tmp_path / "pets")


def load(folder, **keys):
    return load_data(DataConfig(set="folder", folder=folder, **keys))


def test_a_sub_folder_is_a_class(folder):
    data = load(folder)
    assert data.class_names == ("cats", "dogs", "fish")
    assert data.shape == (12, 14, 3)
    assert [len(data.subset(subset)) for subset in ("private", "auxiliary", "users", "evaluator")] == [30, 6, 18, 6]


def test_bytes_of_a_class_name_that_are_not_utf_8_are_escaped(folder):
    """Tables and pages are UTF-8; without this, a run ended when its page was written."""
    os.rename(os.fsencode(folder / "cats"), os.fsencode(folder) + b"/caf\xe9")
    assert load(folder).class_names == (r"caf\udce9", "dogs", "fish")
    os.rename(folder / "dogs", folder / r"caf\udce9")
    with pytest.raises(DataError, match="differ only in bytes that are not UTF-8"):
        load(folder)


def test_the_study_sets_size_and_colour(folder):
    data = load(folder, size=(10, 8), colour="grey")
    assert data.shape == (10, 8)
    assert load(folder, size=9).shape == (9, 9, 3)


def test_pixels_equal_those_of_the_files(folder):
    data = load(folder)
    pixels = {cv2.imread(str(path))[..., ::-1].tobytes() for path in (folder / "cats").glob("*.png")}
    private = data.subset("private")
    cats = private.images(np.flatnonzero(private.labels == 0))
    assert {np.rint(image * 255).astype(np.uint8).tobytes() for image in cats} <= pixels


def test_a_changed_file_is_read_again(folder):
    before = load(folder)
    assert load(folder).fingerprint == before.fingerprint
    write_image(folder / "cats" / "000.png", 999)
    os.utime(folder / "cats" / "000.png", ns=(1, 1))
    assert load(folder).fingerprint != before.fingerprint


def test_images_of_several_sizes_need_a_size_in_the_study(folder):
    write_image(folder / "cats" / "odd.png", 5, size=(9, 9))
    with pytest.raises(DataError, match=r"data\.size is missing.*odd\.png is 9 high and 9 wide"):
        load(folder)
    assert load(folder, size=12).shape == (12, 12, 3)


@pytest.mark.parametrize("size", [None, 12])
def test_a_damaged_image_is_named(folder, size):
    whole = (folder / "dogs" / "007.jpg").read_bytes()
    (folder / "dogs" / "007.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"dogs.007\.jpg: truncated JPEG"):
        load(folder, size=size)


def test_a_file_that_is_not_an_image_is_named(folder):
    (folder / "dogs" / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt: not an image file of a known kind; accepted: \.png"):
        load(folder)


def test_too_few_classes_or_images_are_refused(folder, tmp_path):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="empty: 0 images; a class needs at least 10"):
        load(folder)
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="no sub-folder; expected at least 2"):
        load(tmp_path / "bare")
    with pytest.raises(DataError, match=r"data\.folder = .*nowhere: no such folder"):
        load(tmp_path / "nowhere")
