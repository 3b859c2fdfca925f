"""The data sets `mnist` and `fashion-mnist`, from IDX files, archives, and the cache of Keras."""

import gzip
import sys
import types

import numpy as np
import pytest

from mifsim.data import SUBSETS, DataConfig, load_data
from mifsim.errors import DataError
from tests.data.small_sources import TEST, TRAIN, digits, idx, idx_files, write_files


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "digits"
    path.mkdir()
    return path


def load(folder, name="mnist"):
    return load_data(DataConfig(set=name, folder=folder))


@pytest.mark.parametrize("separator", "-.")
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_found_under_all_usual_names(folder, separator, packed):
    for name, data in idx_files(separator).items():
        write_files(folder, {name + ".gz": gzip.compress(data)} if packed else {name: data})
    data = load(folder)
    sizes = {subset: len(data.subset(subset)) for subset in SUBSETS}
    assert sizes == {"private": 240, "auxiliary": 30, "users": 40, "evaluator": 30}
    test_images, test_labels = digits(TEST, 1)
    np.testing.assert_allclose(data.subset("users").images(range(TEST)), test_images / 255, rtol=1e-6)
    np.testing.assert_array_equal(data.subset("users").labels, test_labels)


def test_the_keras_archive_gives_the_same_set(folder, tmp_path):
    write_files(folder, idx_files())
    (x, y), (tx, ty) = digits(TRAIN, 0), digits(TEST, 1)
    archive = tmp_path / "archive"
    archive.mkdir()
    np.savez(archive / "mnist.npz", x_train=x, y_train=y, x_test=tx, y_test=ty)
    assert load(archive).fingerprint == load(folder).fingerprint


def test_fashion_mnist_has_its_own_class_names(folder):
    write_files(folder, idx_files())
    data = load(folder, "fashion-mnist")
    assert data.name == "fashion-mnist"
    assert data.class_names[0] == "T-shirt/top"
    assert len(data.class_names) == 10


def test_images_per_class_reduces_the_set(folder):
    write_files(folder, idx_files())
    data = load_data(DataConfig(set="mnist", folder=folder, images_per_class=17))
    assert sum(np.sum(data.subset(subset).labels == 3) for subset in SUBSETS) == 17


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "train-images-idx3-ubyte",
            lambda d: d[:-100],
            "235,116 of 235,216 bytes, 100 are missing",
        ),
        ("train-images-idx3-ubyte", lambda d: d[:10], "truncated: 10 bytes, but the IDX header alone has 16"),
        ("train-images-idx3-ubyte", lambda d: d + b"x", "longer than the 235,216 bytes"),
        ("train-images-idx3-ubyte", lambda d: b"GIF89a" + d, "begins with 47494638, expected 00000803"),
        ("train-labels-idx1-ubyte", lambda d: d[:-1], "307 of 308 bytes, 1 are missing"),
        (
            "t10k-labels-idx1-ubyte",
            lambda d: idx(np.arange(39, dtype=np.uint8) % 10),
            "40 test images, but 39",
        ),
        ("t10k-labels-idx1-ubyte", lambda d: idx(np.full(40, 10, np.uint8)), "test labels must be 0 to 9"),
        (
            "t10k-images-idx3-ubyte",
            lambda d: idx(np.zeros((40, 8, 8), np.uint8)),
            "its sizes are 40 x 8 x 8, expected any x 28 x 28",
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_file_is_named_with_its_error(folder, name, damage, message, packed):
    contents = idx_files()
    contents[name] = damage(contents[name])
    if packed:
        contents = {key + ".gz": gzip.compress(data) for key, data in contents.items()}
    write_files(folder, contents)
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert name in str(caught.value)


def test_the_error_for_a_truncated_gzip_file_states_how_much_was_unpacked(folder):
    contents = {key + ".gz": gzip.compress(data) for key, data in idx_files().items()}
    whole = contents["train-images-idx3-ubyte.gz"]
    contents["train-images-idx3-ubyte.gz"] = whole[: len(whole) // 2]
    write_files(folder, contents)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: truncated: [\d,]+ of 235,216 bytes"):
        load(folder)


def test_an_invalid_gzip_file_is_named(folder):
    contents = {key + ".gz": data for key, data in idx_files().items()}
    write_files(folder, contents)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: not a valid gzip file"):
        load(folder)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.zeros((3, 28, 28), np.uint8)}, "y_train.*expected the arrays x_train, y_train"),
        (
            {
                "x_train": np.zeros((3, 28, 28), np.float64),
                "y_train": np.zeros(3, np.uint8),
                "x_test": np.zeros((3, 28, 28), np.uint8),
                "y_test": np.zeros(3, np.uint8),
            },
            r"x_train is float64 \(3, 28, 28\), expected uint8, n x 28 x 28",
        ),
        ({name: np.array([{}]) for name in ("x_train", "y_train", "x_test", "y_test")}, "without pickles"),
    ],
)
def test_an_npz_archive_with_wrong_arrays_is_named(folder, arrays, message):
    np.savez(folder / "mnist.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert "mnist.npz" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"not a zip at all"])
def test_an_invalid_npz_archive_is_named(folder, content):
    (folder / "mnist.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"mnist\.npz: not a valid \.npz archive"):
        load(folder)


def test_the_error_for_missing_files_names_the_expected_ones(folder):
    with pytest.raises(DataError, match="some files are missing; expected the four IDX files train-images-idx3"):
        load(folder)
    with pytest.raises(DataError, match="no such folder"):
        load(folder / "elsewhere")


@pytest.mark.parametrize(
    ("name", "place"), [("mnist", "keras/datasets"), ("fashion-mnist", "keras/datasets/fashion-mnist")]
)
def test_without_a_folder_the_cache_of_keras_is_used(tmp_path, folder, name, place):
    for written in (tmp_path / place, folder):
        write_files(written, idx_files())
    assert load_data(DataConfig(set=name)).fingerprint == load(folder, name).fingerprint


def test_without_a_folder_or_network_the_error_names_the_expected_files(monkeypatch):
    def load_data_offline():
        raise Exception("URL fetch failure on https://example.invalid: None -- unreachable\nmore")

    fake_keras = types.ModuleType("keras")
    fake_keras.datasets = types.SimpleNamespace(mnist=types.SimpleNamespace(load_data=load_data_offline))
    monkeypatch.setitem(sys.modules, "keras", fake_keras)
    with pytest.raises(DataError) as caught:
        load_data(DataConfig(set="mnist"))
    message = str(caught.value)
    for piece in (
        "URL fetch failure",
        "keras/datasets",
        "train-images-idx3-ubyte",
        "mnist.npz",
        "data.folder",
    ):
        assert piece in message
    assert "\n" not in message


def test_files_downloaded_by_keras_are_used(monkeypatch, tmp_path, folder):
    def download():
        write_files(tmp_path / "keras" / "datasets", idx_files())

    fake_keras = types.ModuleType("keras")
    fake_keras.datasets = types.SimpleNamespace(mnist=types.SimpleNamespace(load_data=download))
    monkeypatch.setitem(sys.modules, "keras", fake_keras)
    write_files(folder, idx_files())
    assert load_data(DataConfig(set="mnist")).fingerprint == load(folder).fingerprint
