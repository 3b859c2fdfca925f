"""Every built-in data set passes the conformance suite, in each form that its files may have."""

import gzip

import pytest

from mifsim.data import DATASETS, DataConfig, load_data
from mifsim.testing import DataSetConformance
from tests.data.small_sources import idx_files, write_celeba, write_files, write_pets


def idx_folder(tmp_path, separator="-", packed=False):
    contents = idx_files(separator)
    if packed:
        contents = {name + ".gz": gzip.compress(data) for name, data in contents.items()}
    return write_files(tmp_path / "digits", contents)


CASES = {
    "mnist-5k": lambda tmp_path: {"set": "mnist-5k"},
    "mnist-5k, reduced": lambda tmp_path: {"set": "mnist-5k", "images_per_class": 100},
    "mnist": lambda tmp_path: {"set": "mnist", "folder": idx_folder(tmp_path)},
    "mnist, packed": lambda tmp_path: {"set": "mnist", "folder": idx_folder(tmp_path, packed=True)},
    "mnist, dots": lambda tmp_path: {"set": "mnist", "folder": idx_folder(tmp_path, ".")},
    "mnist, dots, packed": lambda tmp_path: {"set": "mnist", "folder": idx_folder(tmp_path, ".", packed=True)},
    "mnist, reduced": lambda tmp_path: {"set": "mnist", "folder": idx_folder(tmp_path), "images_per_class": 17},
    "fashion-mnist": lambda tmp_path: {"set": "fashion-mnist", "folder": idx_folder(tmp_path)},
    "celeba": lambda tmp_path: {"set": "celeba", "folder": write_celeba(tmp_path / "celeba")},
    "celeba, reduced": lambda tmp_path: {
        "set": "celeba", "folder": write_celeba(tmp_path / "celeba"), "images_per_class": 8,
    },
    "folder": lambda tmp_path: {"set": "folder", "folder": write_pets(tmp_path / "pets")},
    "folder, grey": lambda tmp_path: {
        "set": "folder", "folder": write_pets(tmp_path / "pets"), "size": (10, 8), "colour": "grey",
    },
    "faces": lambda tmp_path: {"set": "faces", "images_per_class": 12},
}  # fmt: skip


class TestDataSets(DataSetConformance):
    @pytest.fixture(scope="class", params=CASES)
    def config(self, request, tmp_path_factory):
        return DataConfig(**CASES[request.param](tmp_path_factory.mktemp("source")))

    @pytest.fixture(scope="class")
    def data(self, config):
        return load_data(config)

    @pytest.fixture
    def again(self, config):
        """Return the data set loaded a second time, with an empty cache."""
        return load_data(config)


def test_every_data_set_is_tested():
    assert {name.partition(",")[0] for name in CASES} == set(DATASETS)
