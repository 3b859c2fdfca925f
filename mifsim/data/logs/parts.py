"""The Parquet files of a log: one file, or a folder of them, possibly partitioned into folders named ``key=value``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from mifsim.data.image_files import SUFFIXES, plain_name
from mifsim.data.logs.format import is_parquet
from mifsim.errors import DataError

logger = logging.getLogger(__name__)

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""Value in the name of a partition's folder that stands for null."""
PARQUET_MAGIC = b"PAR1"
TABLE_READERS = {
    "csv": "read_csv", "tsv": "read_csv", "txt": "read_csv", "json": "read_json", "jsonl": "read_json",
    "ndjson": "read_json", "feather": "read_feather", "arrow": "read_feather", "orc": "read_orc",
}  # fmt: skip
"""Functions of pandas that read other files, by the ends of their names."""
ROWS_ELSEWHERE = frozenset(TABLE_READERS) - {"txt", "json"}
"""Ends of names of files that have rows; a .txt or .json beside data is often a description of it."""

TABLE_FORMATS = {"_delta_log": "a Delta Lake table", ".hoodie": "a Hudi table", "metadata": "an Iceberg table"}
"""Folders that tell that not every Parquet file beside them, or all of its rows, is part of a table; its name."""


def table_kind(name: str) -> str:
    """Return the end of a file name without a dot, in lower case; that before ``.gz``."""
    return name.lower().removesuffix(".gz").rpartition(".")[2]


class Part(NamedTuple):
    """One Parquet file of a log.

    Attributes
    ----------
    file : Path
    folder : Path
        The log's folder, to which the paths of images are relative.
    values : mapping of str to (str or None)
        The columns that the names of its folders state, such as ``day`` in ``day=2026-10-01``.
    """

    file: Path
    folder: Path
    values: dict[str, str | None]


def parquet_parts(path: Path) -> list[Part] | None:
    """Return the Parquet files of a log in the order of their names; None if it is a folder of images.

    Raises
    ------
    DataError
        If there is no such file or folder, or if the folder has rows that would not be read.
    """
    if path.is_file():
        return [Part(path, path.parent, {})]
    if not path.is_dir():
        raise DataError(f"log {path}: no such file or folder")
    if not holds_parquet(path):
        return None
    at_the_top = any(_is_part(entry) for entry in path.iterdir() if entry.is_file())
    return [Part(file, path, values) for file, values in _files(path, {}, only_partitions=at_the_top)]


def holds_parquet(folder: Path) -> bool:
    """Return whether a folder is a log of Parquet files: whether the first file by name that counts is one of them."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in sorted(files):
            if _is_part(Path(place, name)):
                return True
            if not name.startswith((".", "_")) and name.lower().endswith(SUFFIXES):
                # Images beside Parquet files at the top are those that its rows name.
                return place == str(folder) and any(_is_part(Path(place, other)) for other in files)
    return False


def _refuse_table_formats(folder: Path) -> None:
    """Raise an error for a folder in which a log of changes says which files, and which of their rows, are valid."""
    for name, kind in TABLE_FORMATS.items():
        found = folder / name
        if found.is_dir() and (name != "metadata" or any(found.glob("*.metadata.json"))):
            raise DataError(
                f"log {folder}: {kind}, whose files may have rows that were deleted or replaced (accepted: Parquet "
                "files alone; write the present rows of the table to one)"
            )


@cache
def _warn(text: str) -> None:
    """Log a warning once, although the files of a log are listed several times."""
    logger.warning("%s", text)


def _is_part(file: Path) -> bool:
    """Return whether a file is Parquet by its name or, as some programs give it no suffix, by its first bytes."""
    if file.name.startswith((".", "_")) or file.suffix.lower() in SUFFIXES:
        return False
    if is_parquet(file.name):
        return True
    try:
        if not file.is_file():  # opening a named pipe would wait for its writer
            return False
        with open(file, "rb") as opened:
            return opened.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    except OSError:
        return False


def _files(
    folder: Path, values: dict[str, str | None], only_partitions: bool
) -> Iterator[tuple[Path, dict[str, str | None]]]:
    """Yield the Parquet files of a folder; refuse what may have rows and would not be read."""
    _refuse_table_formats(folder)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_file():
            if _is_part(entry):
                yield entry, values
            elif table_kind(entry.name) in ROWS_ELSEWHERE:
                reader = TABLE_READERS[table_kind(entry.name)]
                raise DataError(
                    f"log {entry}: lies beside Parquet files and is not one; move it away, or convert it, for example "
                    f"with pandas.{reader}(...).to_parquet(...)"
                )
        elif entry.is_dir():
            key, equals, text = entry.name.partition("=")
            if only_partitions and not equals:
                if holds_parquet(entry):
                    _warn(f"log {folder}: the Parquet files in its folder {plain_name(entry.name)} are not read")
            elif entry.is_symlink():  # it may lead back to a folder above
                if holds_parquet(entry):
                    raise DataError(f"log {entry}: a link to a folder; move the folder itself to this place")
            elif equals:
                named = None if text == NO_VALUE else unquote(text)
                yield from _files(entry, {**values, plain_name(unquote(key)): named}, only_partitions)
            else:
                yield from _files(entry, values, only_partitions)
        elif is_parquet(entry.name):
            raise DataError(f"log {entry}: neither a file nor a folder, but perhaps a link whose file is gone")
