"""The data set `celeba`, on a folder tree in CelebA's published layout with 120 random images."""

import cv2
import numpy as np
import pytest

from mifsim.data import DataConfig, load_data
from mifsim.data.celeba import class_of
from mifsim.errors import DataError
from tests.data.small_sources import FACES, attributes, face_file, partition_of, write_celeba, write_celeba_lists

CLASS = {(-1, -1): {1: 0, -1: 1}, (1, -1): {1: 2, -1: 2}, (-1, 1): {1: 3, -1: 3}, (1, 1): {1: 3, -1: 3}}
"""Class by (bangs, eyeglasses), then by male; worked by hand from "Eyeglasses before Bangs before Male/Female"."""


@pytest.fixture
def tree(tmp_path):
    return write_celeba(tmp_path / "celeba")


def load(tree, **keys):
    return load_data(DataConfig(set="celeba", folder=tree, **keys))


def test_the_official_layout_is_read(tree):
    data = load(tree)
    assert data.class_names == ("Male", "Female", "Bangs", "Eyeglasses")
    assert data.shape == (64, 64, 3)
    sizes = {subset: len(pool) for subset, pool in data.subsets.items()}
    assert sizes == {"private": 72, "auxiliary": 16, "users": 16, "evaluator": 16}


def test_the_csv_form_and_a_nested_image_folder_give_the_same_set(tree):
    before = load(tree).fingerprint
    write_celeba_lists(tree, ".csv")
    inner = tree / "inner"
    (tree / "img_align_celeba").rename(inner)
    (tree / "img_align_celeba").mkdir()
    inner.rename(tree / "img_align_celeba" / "img_align_celeba")
    assert load(tree).fingerprint == before


def test_each_image_has_the_class_that_the_rule_gives(tree):
    users = load(tree).subset("users")
    expected = [
        CLASS[attributes(n)["Bangs"], attributes(n)["Eyeglasses"]][attributes(n)["Male"]]
        for n in range(FACES)
        if partition_of(n) == 2
    ]
    assert users.labels.tolist() == expected
    assert class_of(male=True, bangs=True, eyeglasses=True) == 3
    assert class_of(male=True, bangs=True, eyeglasses=False) == 2
    assert class_of(male=False, bangs=False, eyeglasses=False) == 1


def test_the_centred_square_of_148_pixels_is_reduced_by_averaging(tree):
    photo = np.zeros((218, 178, 3), np.uint8)
    photo[35:183, 15:163] = (30, 60, 90)  # blue, green, red; everything outside the square stays black
    cv2.imwrite(str(tree / "img_align_celeba" / face_file(104)), photo, [cv2.IMWRITE_JPEG_QUALITY, 100])
    image = load(tree).subset("users").image(0)
    inner = image[2:-2, 2:-2].reshape(-1, 3) * 255
    np.testing.assert_allclose(inner, np.tile([90, 60, 30], (len(inner), 1)), atol=3)
    assert image[:, 0].min() * 255 > 20, "something of the black surroundings is left"


def test_image_files_are_read_lazily(tree):
    data = load(tree)
    broken = tree / "img_align_celeba" / face_file(105)
    broken.write_bytes(b"\xff\xd8 broken")
    data.subset("users").image(0)
    with pytest.raises(DataError, match=r"000106\.jpg: truncated JPEG"):
        data.subset("users").image(1)


def test_loading_names_a_missing_image(tree):
    (tree / "img_align_celeba" / face_file(7)).unlink()
    with pytest.raises(DataError, match=r"000008\.jpg: listed but missing$"):
        load(tree)
    (tree / "img_align_celeba" / face_file(9)).unlink()
    with pytest.raises(DataError, match=r"000008\.jpg: listed but missing, and 1 more"):
        load(tree)


def test_images_per_class_reduces_the_set(tree):
    data = load(tree, images_per_class=8)
    total = sum(np.bincount(pool.labels, minlength=4) for pool in data.subsets.values())
    assert total.tolist() == [8] * 4


def replace(path, old, new):
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: replace(t / "list_attr_celeba.txt", "Eyeglasses", "Specs"), "has no column 'Eyeglasses'"),
        (
            lambda t: replace(t / "list_attr_celeba.txt", "000003.jpg  -1", "000003.jpg  -1  ?"),
            "line 5: expected",
        ),
        (
            lambda t: replace(t / "list_eval_partition.txt", "000003.jpg 0", "000003.jpg 7"),
            r"000003\.jpg must be in",
        ),
        (lambda t: replace(t / "list_eval_partition.txt", "000003.jpg 0\n", ""), r"000003\.jpg must be in"),
        (
            lambda t: replace(t / "list_eval_partition.txt", " 2\n", " 0\n"),
            "users subset without an image of class",
        ),
        (lambda t: (t / "list_attr_celeba.txt").write_text("3\n"), "no column 'Male'"),
        (lambda t: (t / "list_attr_celeba.txt").write_bytes(b"\xff\xfe\x00"), "cannot be read as text"),
        (lambda t: (t / "list_attr_celeba.txt").unlink(), r"neither list_attr_celeba\.txt nor"),
        (lambda t: (t / "img_align_celeba").rename(t / "images"), "no folder img_align_celeba"),
    ],
)
def test_an_error_in_the_layout_is_named(tree, damage, message):
    damage(tree)
    with pytest.raises(DataError, match=message):
        load(tree)
