"""The data set `folder`: wrong layouts are named with what would be right, and copies and unusable files are found."""

import io
import os
import shutil
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mifsim.data import SUBSETS, DataConfig, load_data
from mifsim.errors import DataError
from tests.data.small_sources import write_image


def write_class(path, count=20, seed=0, size=(12, 14)):
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_image(path / f"{number:03}.png", seed + number, size)
    return path


@pytest.fixture
def folder(tmp_path):
    for seed, name in ((0, "cats"), (1000, "dogs")):
        write_class(tmp_path / "pets" / name, seed=seed)
    return tmp_path / "pets"


def load(folder, **keys):
    return load_data(DataConfig(set="folder", folder=folder, **keys))


def images_of(data):
    """Return the bytes of every image of a data set, by subset."""
    return {name: [image.tobytes() for image in pool.images(range(len(pool)))] for name, pool in data.subsets.items()}


class TestLayout:
    def test_a_folder_above_train_and_test(self, folder, tmp_path):
        for name in ("test", "train"):
            shutil.copytree(folder, tmp_path / "data" / name)
        with pytest.raises(DataError) as caught:
            load(tmp_path / "data")
        assert "'test' and 'train' hold folders, not images: a level too many" in str(caught.value)
        assert f"data.folder = {str(tmp_path / 'data' / 'train')!r}" in str(caught.value)
        assert load(tmp_path / "data" / "train").class_names == ("cats", "dogs")

    def test_a_single_folder_that_holds_the_classes(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "archive" / "pets")
        (tmp_path / "archive" / "__MACOSX").mkdir()
        (tmp_path / "archive" / "README.txt").write_text("about the archive")
        with pytest.raises(
            DataError, match=r"'pets' holds folders, not images: a level too many; give .*archive/pets'"
        ):
            load(tmp_path / "archive")

    def test_a_folder_of_one_class(self, folder):
        with pytest.raises(DataError, match=r"cats: holds 20 images but no folders; .*perhaps data\.folder = '.*pets'"):
            load(folder / "cats")

    def test_images_beside_the_classes_are_told(self, folder, caplog):
        write_image(folder / "logo.png", 1)
        assert len(load(folder).class_names) == 2
        assert "1 images at its top level, such as logo.png, are not used" in caplog.text

    def test_a_folder_inside_a_class(self, folder):
        write_class(folder / "cats" / "kittens")
        with pytest.raises(DataError, match=r"kittens: a folder in the folder of the class 'cats'"):
            load(folder)

    @pytest.mark.parametrize(("names", "found"), [([], "no sub-folder"), (["cats"], "only the sub-folder 'cats'")])
    def test_fewer_than_two_classes(self, tmp_path, names, found):
        (tmp_path / "few").mkdir()
        for name in names:
            write_class(tmp_path / "few" / name)
        with pytest.raises(DataError, match=f"few: {found}; expected at least 2"):
            load(tmp_path / "few")

    def test_an_empty_class(self, folder):
        (folder / "fish").mkdir()
        with pytest.raises(DataError, match="fish: 0 images; a class needs at least 10"):
            load(folder)

    def test_a_file_or_nothing_in_place_of_the_folder(self, folder):
        with pytest.raises(DataError, match="a file; expected a folder"):
            load(folder / "cats" / "000.png")
        with pytest.raises(DataError, match="no such folder"):
            load(folder / "birds")

    def test_files_of_systems_are_skipped_and_suffixes_may_be_upper_case(self, folder):
        before = images_of(load(folder))
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._000.png"):
            (folder / "cats" / name).write_bytes(b"not an image")
        (folder / ".git").mkdir()
        (folder / "@eaDir").mkdir()
        for number in range(20):
            (folder / "dogs" / f"{number:03}.png").rename(folder / "dogs" / f"{number:03}.PNG")
        assert images_of(load(folder)) == before

    def test_links_are_followed_and_links_to_nothing_named(self, folder, tmp_path):
        (folder / "dogs").rename(tmp_path / "elsewhere")
        (folder / "dogs").symlink_to(tmp_path / "elsewhere")
        (folder / "cats" / "100.png").symlink_to(folder / "cats" / "000.png")
        data = load(folder)
        assert data.class_names == ("cats", "dogs")
        assert data.facts["copies"] == {"left_out": 1, "exact": 1, "near": 0, "in_two_classes": 0}
        (folder / "cats" / "101.png").symlink_to(tmp_path / "gone.png")
        with pytest.raises(DataError, match=r"101\.png: cannot be read"):
            load(folder, size=12)
        (folder / "cats" / "101.png").unlink()
        (folder / "cats" / "101.png").symlink_to(folder / "cats" / "101.png")
        with pytest.raises(DataError, match=r"101\.png: cannot be read"):
            load(folder)


class TestFiles:
    def test_the_size_of_portraits_is_the_one_that_is_shown(self, tmp_path):
        """Stored 24 high and 48 wide, to be turned by 90 degrees."""
        exif = Image.Exif()
        exif[0x0112] = 6
        for seed, name in enumerate(("blue", "green")):
            (tmp_path / name).mkdir()
            for number in range(12):
                stored = np.random.default_rng([seed, number]).integers(0, 256, (24, 48, 3), np.uint8)
                Image.fromarray(stored).save(tmp_path / name / f"{number}.jpg", exif=exif)
        data = load(tmp_path)
        assert data.shape == (48, 24, 3)
        assert data.facts["preprocessing"]["cut"] == 0

    def test_what_is_cut_away_is_told(self, tmp_path, caplog):
        for seed, name in ((0, "a"), (100, "b")):
            write_class(tmp_path / "wide" / name, seed=seed, size=(16, 48))
        assert load(tmp_path / "wide", size=16).facts["preprocessing"] == {
            "shape": [16, 16, 3], "fit": "cut", "images": 40, "cut": 40, "mean_cut_away": 0.6667, "transparent": 0,
        }  # fmt: skip
        assert 'data.fit = "cut" cuts away 67% of the area of 40 of 40 images' in caplog.text
        assert 'set data.fit = "squash"' in caplog.text
        caplog.clear()
        for fit in ("squash", "pad"):
            assert load(tmp_path / "wide", size=16, fit=fit).facts["preprocessing"]["cut"] == 0
        # Padded, some are nearly equal: five rows of averaged noise on black.
        assert "cuts away" not in caplog.text

    def test_transparency_is_told_unless_there_is_a_background(self, folder, caplog):
        clear = np.dstack([cv2.imread(str(folder / "cats" / "003.png")), np.zeros((12, 14), np.uint8)])
        cv2.imwrite(str(folder / "cats" / "003.png"), clear)
        assert load(folder).facts["preprocessing"]["transparent"] == 1
        assert "1 of 40 images of the folder" in caplog.text
        assert "set data.background" in caplog.text
        caplog.clear()
        data = load(folder, background=200)
        assert caplog.text == ""
        assert data.facts["preprocessing"]["background"] == [200, 200, 200]
        assert np.full((12, 14, 3), 200 / 255, np.float32).tobytes() in {*chain(*images_of(data).values())}

    def test_webp_files_are_read(self, folder):
        before = images_of(load(folder))
        for path in (folder / "cats").iterdir():
            file = io.BytesIO()
            Image.open(path).save(file, "WEBP", lossless=True)
            path.unlink()
            path.with_suffix(".webp").write_bytes(file.getvalue())
        assert images_of(load(folder)) == before

    @pytest.mark.parametrize("size", [None, 12])
    def test_bad_files_are_counted_and_named(self, folder, size):
        for number in range(7):
            (folder / "dogs" / f"{number:03}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        (folder / "cats" / "005.png").write_bytes(b"")
        with pytest.raises(DataError) as caught:
            load(folder, size=size)
        first, *lines = str(caught.value).splitlines()
        assert first.endswith("8 of 40 files are not valid images:")
        assert lines[0].strip() == f"{folder / 'cats' / '005.png'}: empty"
        assert lines[1].strip() == f"{folder / 'dogs' / '000.png'}: truncated PNG"
        assert "and 3 more, listed in" in lines[5]
        listed = Path(lines[5].split("listed in ")[1]).read_text().splitlines()
        assert len(listed) == 8
        assert str(folder / "dogs" / "006.png") in listed[-1]


class TestCopies:
    def add_copies(self, folder):
        """Add 5 exact copies, 5 darker ones, and 1 in the other class."""
        for number in range(5):
            shutil.copy(folder / "cats" / f"{number:03}.png", folder / "cats" / f"copy-{number}.png")
            image = cv2.imread(str(folder / "dogs" / f"{number:03}.png"))
            cv2.imwrite(str(folder / "dogs" / f"copy-{number}.png"), np.maximum(image, 3) - 2)
        shutil.copy(folder / "cats" / "019.png", folder / "dogs" / "cat.png")

    def test_copies_are_counted_told_and_in_no_subset(self, folder, caplog):
        before = load(folder)
        self.add_copies(folder)
        data = load(folder)
        assert data.facts["files"] == 51
        assert data.facts["copies"] == {"left_out": 11, "exact": 6, "near": 5, "in_two_classes": 1}
        assert "11 of 51 images are left out: they are copies of others (6 exact, 5 nearly equal" in caplog.text
        assert "1 of them are copies of an image of another class" in caplog.text
        caplog.clear()
        load_data(DataConfig(set="folder", folder=folder), again=True)
        assert caplog.text == ""
        load(folder)
        assert "11 of 51 images are left out" in caplog.text
        assert sum(len(data.subset(name)) for name in SUBSETS) == 40
        levels = [np.frombuffer(image, np.float32) for images in images_of(data).values() for image in images]
        apart = [np.abs(a - b).mean() for i, a in enumerate(levels) for b in levels[:i]]
        assert min(apart) > 0.1  # noise differs by a third on average
        assert data.shape == before.shape

    def test_without_copies_the_split_is_that_of_all_images(self, folder):
        data = load(folder)
        assert {name: len(data.subset(name)) for name in SUBSETS} == {
            "private": 20, "auxiliary": 4, "users": 12, "evaluator": 4,
        }  # fmt: skip
        assert data.facts["copies"]["left_out"] == 0

    def test_a_class_with_too_few_distinct_images_is_refused(self, folder):
        for number in range(8, 20):
            shutil.copy(folder / "cats" / "000.png", folder / "cats" / f"{number:03}.png")
        with pytest.raises(DataError, match=r"cats: 8 images \(in 20 files; the others show the same\); a class needs"):
            load(folder)


def test_a_named_pipe_is_refused(folder):
    os.mkfifo(folder / "cats" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: not a regular file"):
        load(folder, size=12)
