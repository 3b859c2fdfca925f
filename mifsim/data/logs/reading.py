"""Reading the rows of a log: Parquet files, or a folder with a sub-folder of images for each client.

Logs are untrusted: an unusable row is returned with the reason, and no image is decoded here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mifsim.data.logs.folders import folder_rows, members
from mifsim.data.logs.format import LogFormat
from mifsim.data.logs.parquet import named_files, part_rows
from mifsim.data.logs.parts import parquet_parts
from mifsim.data.logs.rows import Row


def log_rows(path: Path, form: LogFormat) -> Iterator[Row]:
    """Yield all rows of a log, in the order in which they are stored.

    Parameters
    ----------
    path : Path
        A Parquet file; a folder of Parquet files, read in the order of their names, also in sub-folders (the values of
        folders named ``key=value`` are columns); or a folder with a sub-folder for each client, in which the order of
        the file names is the order of time.
    form : LogFormat
        Column names and encodings in Parquet files. See `mifsim.data.logs.ids`, `mifsim.data.logs.times` and
        `mifsim.data.logs.cells` for the types of the columns.

    Raises
    ------
    DataError
        If the log does not exist, or one of its files is not a Parquet file, lacks a column or has a column of another
        type.
    """
    parts = parquet_parts(path)
    if parts is None:
        yield from folder_rows(path)
        return
    for part in parts:
        yield from part_rows(part, form)


def stamps(path: Path, form: LogFormat) -> Iterator[tuple[str, int, int, int]]:
    """Yield the name, size in bytes, modification time and inode change time (in ns) of every file of a log.

    Programs cannot set the inode change time, so a log with equal stamps is unchanged.
    """
    parts = parquet_parts(path)
    if parts is None:
        for _, member in members(path):
            yield _stamp(member)
        return
    for part in parts:
        yield _stamp(part.file)
        for named in named_files(part, form):
            yield _stamp(named)


def _stamp(path: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (str(path), -1, 0, 0)
    return (str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns)
