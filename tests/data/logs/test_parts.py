"""Which files of a folder are the log: nothing with rows is left out without a word."""

import os
import shutil
from pathlib import Path

import pytest

from mifsim.data.logs import open_log
from mifsim.errors import DataError
from tests.data.logs.small_logs import picture, png, streams, write_log


def written(path: Path, *levels: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    return write_log(path, [(f"client {level}", level, png(picture(level))) for level in levels])


def read(folder: Path) -> list[int]:
    return sorted(level for stream in streams(open_log(folder)).values() for level in stream)


@pytest.mark.parametrize("name", ["000000_0", "part-00001", "part-2.gz", "PART-2.PARQUET", "notes.txt"])
def test_parquet_files_are_known_by_their_content_whatever_their_name(name: str, tmp_path: Path) -> None:
    written(tmp_path / "log" / "a.parquet", 1, 2)
    written(tmp_path / "log" / name, 3)
    assert read(tmp_path / "log") == [1, 2, 3]
    (tmp_path / "log" / "a.parquet").unlink()
    assert read(tmp_path / "log") == [3]


@pytest.mark.parametrize(
    "name", ["_SUCCESS", ".a.parquet.crc", "README.txt", "schema.json", "LICENSE", "shot.png", "_old.parquet"]
)
def test_files_without_rows_are_left_out(name: str, tmp_path: Path) -> None:
    written(tmp_path / "log" / "a.parquet", 1, 2)
    (tmp_path / "log" / name).write_bytes(png(picture(7)))
    assert read(tmp_path / "log") == [1, 2]


@pytest.mark.parametrize("name", ["b.csv", "b.jsonl.gz", "b.feather"])
def test_a_file_with_rows_of_another_kind_is_refused(name: str, tmp_path: Path) -> None:
    written(tmp_path / "log" / "a.parquet", 1, 2)
    (tmp_path / "log" / name).write_text("client,time,image\n")
    with pytest.raises(DataError, match=rf"{name}: lies beside Parquet files and is not one; move it away, or convert"):
        read(tmp_path / "log")


def test_parquet_files_in_a_folder_beside_parquet_files_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path / "log" / "a.parquet", 1, 2)
    written(tmp_path / "log" / "older" / "b.parquet", 3)
    assert read(tmp_path / "log") == [1, 2]
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == [f"log {tmp_path / 'log'}: the Parquet files in its folder older are not read"]
    shutil.move(tmp_path / "log" / "older", tmp_path / "log" / "day=1")
    assert read(tmp_path / "log") == [1, 2, 3]


def test_links_are_followed_to_files_and_refused_to_folders(tmp_path: Path) -> None:
    written(tmp_path / "log" / "a.parquet", 1, 2)
    elsewhere = written(tmp_path / "elsewhere" / "b.parquet", 3)
    link = tmp_path / "log" / "day=1"
    link.symlink_to(elsewhere.parent)
    with pytest.raises(DataError, match="day=1: a link to a folder; move the folder itself"):
        read(tmp_path / "log")
    link.unlink()
    (tmp_path / "log" / "b.parquet").symlink_to(elsewhere)
    assert read(tmp_path / "log") == [1, 2, 3]
    elsewhere.unlink()
    with pytest.raises(
        DataError, match=r"b\.parquet: neither a file nor a folder, but perhaps a link whose file is gone"
    ):
        read(tmp_path / "log")


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        ("_delta_log/00000000000000000000.json", "a Delta Lake table"),
        (".hoodie/hoodie.properties", "a Hudi table"),
        ("metadata/v1.metadata.json", "an Iceberg table"),
    ],
)
def test_tables_whose_files_have_deleted_rows_are_refused(inside: str, kind: str, tmp_path: Path) -> None:
    written(tmp_path / "log" / "part-0.parquet", 1, 2)
    (tmp_path / "log" / "metadata").mkdir()
    assert read(tmp_path / "log") == [1, 2]
    (tmp_path / "log" / inside).parent.mkdir(exist_ok=True)
    (tmp_path / "log" / inside).write_text("{}")
    with pytest.raises(DataError, match=f"log: {kind}, whose files may have rows that were deleted or replaced"):
        read(tmp_path / "log")
    (tmp_path / "outer").mkdir()
    shutil.move(tmp_path / "log", tmp_path / "outer" / "table")
    with pytest.raises(DataError, match=f"table: {kind}, whose files may have rows"):
        read(tmp_path / "outer")


def test_a_named_pipe_does_not_stop_the_reading(tmp_path: Path) -> None:
    written(tmp_path / "log" / "a.parquet", 1, 2)
    os.mkfifo(tmp_path / "log" / "pipe")
    assert read(tmp_path / "log") == [1, 2]
