"""Prepared data sets in the cache folder: reuse, damaged files, and failures."""

import mmap

import numpy as np
import pytest

from mifsim.data.prepared import Raw, prepare
from mifsim.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


class Source:
    """A source that counts how often it is read."""

    def __init__(self):
        self.reads = 0

    def __call__(self):
        self.reads += 1
        return Raw(LABELS, (4, 5, 3), iter(PIXELS), sections=(4, 2))


def assert_prepared(prepared):
    np.testing.assert_array_equal(prepared.pool.pixels, PIXELS)
    np.testing.assert_array_equal(prepared.pool.labels, LABELS)
    assert prepared.sections == (4, 2)


def test_the_second_preparation_maps_the_pixels_from_the_cache():
    source = Source()
    first, second = prepare("set", "key", source), prepare("set", "key", source)
    assert_prepared(first)
    assert_prepared(second)
    assert source.reads == 1
    owner = second.pool.pixels
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner, mmap.mmap)
    assert first.content == second.content
    prepare("set", "other key", source)
    assert source.reads == 2


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, remove])
@pytest.mark.parametrize("ending", [".pixels.npy", ".labels.npy", ".json"])
def test_a_damaged_copy_is_replaced(cache_folder, ending, damage):
    source = Source()
    prepare("set", "key", source)
    (path,) = (cache_folder / "data").glob("set-*" + ending)
    damage(path)
    assert_prepared(prepare("set", "key", source))
    assert source.reads == 2
    prepare("set", "key", source)
    assert source.reads == 2


def test_a_failed_preparation_leaves_no_files(cache_folder):
    def images():
        yield from PIXELS[:3]
        raise DataError("the fourth is broken")

    with pytest.raises(DataError, match="the fourth is broken"):
        prepare("set", "key", lambda: Raw(LABELS, (4, 5, 3), images()))
    assert list((cache_folder / "data").iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cache folder .*file.*set MIFSIM_CACHE_DIR"):
        prepare("set", "key", Source())
