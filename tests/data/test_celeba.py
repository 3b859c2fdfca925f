"""The data set `celeba`, on a folder tree in CelebA's published layout with 120 random images."""

import shutil

import cv2
import numpy as np
import pytest

from mifsim.data import DataConfig, celeba_files, load_data
from mifsim.data.celeba import class_of
from mifsim.data.image_headers import read_header
from mifsim.errors import DataError
from tests.data.small_sources import FACES, attributes, face_file, partition_of, write_celeba, write_celeba_lists

CLASS = {(-1, -1): {1: 0, -1: 1}, (1, -1): {1: 2, -1: 2}, (-1, 1): {1: 3, -1: 3}, (1, 1): {1: 3, -1: 3}}
"""Class by (bangs, eyeglasses), then by male; worked by hand from "Eyeglasses before Bangs before Male/Female"."""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_celeba(tmp_path_factory.mktemp("celeba") / "original")


@pytest.fixture
def tree(original, tmp_path):
    return shutil.copytree(original, tmp_path / "celeba")


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


def test_the_fingerprint_changes_with_the_length_of_an_image(tree):
    before = load(tree).fingerprint
    face = tree / "img_align_celeba" / face_file(104)
    cv2.imwrite(str(face), np.zeros((218, 178, 3), np.uint8))
    assert load(tree).fingerprint != before


def test_loading_names_a_missing_image(tree):
    (tree / "img_align_celeba" / face_file(7)).unlink()
    with pytest.raises(DataError, match=r"000008\.jpg: listed in list_attr_celeba\.txt, but missing$"):
        load(tree)
    (tree / "img_align_celeba" / face_file(9)).unlink()
    with pytest.raises(DataError, match=r"000008\.jpg: listed in list_attr_celeba\.txt, but missing \(and 1 more\)"):
        load(tree)


def test_images_per_class_reduces_the_set(tree):
    data = load(tree, images_per_class=8)
    total = sum(np.bincount(pool.labels, minlength=4) for pool in data.subsets.values())
    assert total.tolist() == [8] * 4


def test_a_class_with_fewer_images_keeps_all_of_them(tree):
    sizes = {name: int(np.sum([np.sum(pool.labels == label) for pool in load(tree).subsets.values()]))
             for label, name in enumerate(("Male", "Female", "Bangs", "Eyeglasses"))}  # fmt: skip
    assert sizes == {"Male": 15, "Female": 15, "Bangs": 30, "Eyeglasses": 60}  # 8 combinations of 120 cycle evenly
    data = load(tree, at_most_per_class=20)
    total = sum(np.bincount(pool.labels, minlength=4) for pool in data.subsets.values())
    assert total.tolist() == [15, 15, 20, 20]
    assert data.note.endswith("at most 20 images per class over all subsets. Classes with fewer keep all images: "
                              "Male 15, Female 15.")  # fmt: skip
    with pytest.raises(DataError, match=r"images_per_class = 20, but class 'Male' has 15 images"):
        load(tree, images_per_class=20)


def test_images_that_no_list_names_are_refused(tree):
    (tree / "img_align_celeba" / "Thumbs.db").write_bytes(b"")  # of an operating system: skipped
    load(tree)
    shutil.copy(tree / "img_align_celeba" / face_file(0), tree / "img_align_celeba" / "000900.jpg")
    with pytest.raises(DataError, match=r"img_align_celeba/000900\.jpg: not listed in list_attr_celeba\.txt$"):
        load(tree)


def test_an_image_of_another_size_is_refused_also_after_an_earlier_check(tree):
    load(tree)
    half = np.zeros((109, 89, 3), np.uint8)
    for number in (3, 4):
        cv2.imwrite(str(tree / "img_align_celeba" / face_file(number)), half)
    with pytest.raises(DataError, match=r"000004\.jpg: 89 x 109 pixels; expected 178 x 218, .* \(and 1 more\)$"):
        load(tree)


def test_a_truncated_image_is_refused(tree):
    path = tree / "img_align_celeba" / face_file(11)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"000012\.jpg: truncated JPEG"):
        load(tree)


def test_the_sizes_of_unchanged_images_are_read_once(tree, monkeypatch):
    read = []
    monkeypatch.setattr(celeba_files, "read_header", lambda data: read.append(1) or read_header(data))
    load(tree)
    load(tree)
    assert len(read) == FACES


def test_the_note_says_which_partition_it_is(tree):
    """In the official partition, images 1 to 162,770 are the training set; the tree has 48 of its 120 elsewhere."""
    assert load(tree).note.startswith(
        "Partition by list_eval_partition.txt, not the official one (48 of 120 images in another set): training 60%, "
        "validation 27%, test 13% of 120 images."
    )
    ends = (162_770, 182_637, 202_599)
    whole = {f"{number:06}.jpg": sum(number > end for end in ends) for number in range(1, ends[-1] + 1)}
    assert celeba_files.partition_note("p", whole).startswith("Partition by p, CelebA's official one: training 80%")
    part = {name: value for name, value in whole.items() if name < "000100" or name > "202591"}
    assert "in agreement with CelebA's official one, of which it has 108 images" in celeba_files.partition_note(
        "p", part
    )


@pytest.mark.parametrize(
    ("shared", "words"),
    [
        (0, "None of the 60 people in identity_CelebA.txt is in two sets."),
        (1, "1 of the 60 people in identity_CelebA.txt are in several sets."),
    ],
)
def test_people_in_several_sets_are_counted(tree, shared, words):
    people = [n // 2 for n in range(FACES)]  # neighbours are in the same set, whose bounds are even
    people[0] = 59 if shared else people[0]
    lines = [f"{face_file(n)} {person}" for n, person in enumerate(people)]
    (tree / "identity_CelebA.txt").write_text("\n".join(lines))
    assert words in load(tree).note


def replace(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def move_class(tree, label, before, after):
    """List all images of a class in another set."""
    path = tree / "list_eval_partition.txt"
    for number in range(FACES):
        found = attributes(number)
        if CLASS[found["Bangs"], found["Eyeglasses"]][found["Male"]] == label:
            replace(path, f"{face_file(number)} {before}", f"{face_file(number)} {after}")


def write_identities(tree, names):
    (tree / "identity_CelebA.txt").write_text("\n".join(f"{name} 1" for name in names))


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
            r"list_eval_partition\.txt, line 3: 000003\.jpg has the values 7 for partition \(accepted: 0, 1, 2\)",
        ),
        (
            lambda t: replace(t / "list_eval_partition.txt", "000003.jpg 0\n", ""),
            r"list_eval_partition\.txt: has no line for 000003\.jpg, which list_attr_celeba\.txt lists",
        ),
        (
            lambda t: replace(t / "list_eval_partition.txt", "000120.jpg 2\n", "000120.jpg 2\n000121.jpg 2\n"),
            r"list_attr_celeba\.txt: has no line for 000121\.jpg, which list_eval_partition\.txt lists",
        ),
        (
            lambda t: replace(t / "list_eval_partition.txt", "000004.jpg 0", "000003.jpg 0"),
            r"list_eval_partition\.txt, line 4: 000003\.jpg is listed twice",
        ),
        (
            lambda t: replace(t / "list_attr_celeba.txt", "120\n5_o", "121\n5_o"),
            r"list_attr_celeba\.txt: its first line states 121 images, but it lists 120",
        ),
        (
            lambda t: replace(t / "list_attr_celeba.txt", "000001.jpg  -1  -1  -1  -1", "000001.jpg  -1  -1  -1   0"),
            r"line 3: 000001\.jpg has the values 0, -1, -1 for Male, Bangs, Eyeglasses \(accepted: -1, 1\)",
        ),
        (
            lambda t: replace(t / "list_eval_partition.txt", " 2\n", " 0\n"),
            r"list_eval_partition\.txt: it leaves the users subset with no image of class",
        ),
        (
            lambda t: replace(t / "list_eval_partition.txt", " 1\n", " 0\n"),
            "it leaves the validation set with no image of class Male",
        ),
        (
            lambda t: move_class(t, 3, 0, 2),
            r"list_eval_partition\.txt: it leaves the private subset with no image of class Eyeglasses",
        ),
        (
            lambda t: write_identities(t, map(face_file, range(1, FACES))),
            r"identity_CelebA\.txt: has no line for 000001\.jpg, which list_eval_partition\.txt lists$",
        ),
        (
            lambda t: write_identities(t, map(face_file, range(FACES + 2))),
            r"list_eval_partition\.txt: has no line for 000121\.jpg, which identity_CelebA\.txt lists \(and 1 more\)",
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
