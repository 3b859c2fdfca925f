"""Size limits: files that state a huge size, or unpack to one, are refused."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mifsim import limits
from mifsim.data import DataConfig, load_data
from mifsim.data.idx import read_idx
from mifsim.data.image_files import read_image, read_size
from mifsim.errors import DataError, VictimError
from mifsim.victims.loading import load_victim


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "image.png"
    os.mkfifo(pipe)
    for read in (read_size, lambda path: read_image(path, "rgb")):
        with pytest.raises(DataError, match=r"image\.png: not a regular file"):
            read(pipe)


def test_a_file_above_the_limit_is_refused_and_one_at_the_limit_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert limits.read_plain(file, 5) == b"12345"
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        limits.read_plain(file, 4)


def test_a_large_size_in_a_header_allocates_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(struct.pack(">IIII", 2051, 2**32 - 1, 28, 28))
    with pytest.raises(DataError, match=r"states 3,367,254,359,296 bytes \(accepted: at most 4,294,967,296\)"):
        read_idx(file, (None, 28, 28))


@pytest.fixture
def bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return a zip file of less than 20 kB that unpacks to 10 MB, and set the limit to 100 kB."""
    file = tmp_path / "bomb.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", bytes(10_000_000))
    assert file.stat().st_size < 20_000
    monkeypatch.setattr(limits, "MAX_UNPACKED_BYTES", 100_000)
    return file.read_bytes()


def test_archives_above_the_unpacked_limit_are_not_unpacked(bomb: bytes, tmp_path: Path) -> None:
    (tmp_path / "own.keras").write_bytes(bomb)
    with pytest.raises(VictimError, match=r"own\.keras: 10,000,000 bytes once unpacked \(accepted: at most 100,000\)"):
        load_victim(tmp_path / "own.keras", (28, 28), 10)
    (tmp_path / "mnist.npz").write_bytes(bomb)
    with pytest.raises(DataError, match=r"mnist\.npz: .*10,000,000 bytes once unpacked"):
        load_data(DataConfig(set="mnist", folder=tmp_path))


def test_an_archive_unpacks_no_more_than_its_directory_states(tmp_path: Path) -> None:
    file = tmp_path / "lies.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(100_000))
    content = file.read_bytes()
    file.write_bytes(content.replace(struct.pack("<I", 100_000), struct.pack("<I", 10)))
    limits.check_zip(file)  # accepted: the sizes in the directory are small
    with zipfile.ZipFile(file) as archive, pytest.raises(zipfile.BadZipFile):  # at most these sizes are unpacked
        assert len(archive.read("a")) <= 10


def test_arrays_with_python_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_train=np.array([object()], dtype=object))
    with pytest.raises(DataError, match=r"mnist\.npz: not a valid \.npz archive without pickles"):
        load_data(DataConfig(set="mnist", folder=tmp_path))
