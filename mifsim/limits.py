"""How much of a file that may be anybody's is read: before anything is unpacked or held in memory."""

from __future__ import annotations

import zipfile
from pathlib import Path

MAX_ARCHIVE_BYTES = 2 * 2**30
"""Of a model file or a data set's archive, as it is stored."""

MAX_UNPACKED_BYTES = 4 * 2**30
"""Of all its members, as they would be unpacked: a zip file of some kilobytes can hold as much as it likes."""


def read_plain(path: Path, limit: int) -> bytes:
    """Read a file.

    Raises
    ------
    OSError
        Where it cannot be read.
    ValueError
        Where it is no plain file (a pipe or a device would never end), or has more than `limit` bytes.
    """
    if path.exists() and not path.is_file():
        raise ValueError("no plain file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"more than {limit:,} bytes; that is the most that is read")
    return content


def check_zip(path: Path) -> None:
    """Refuse a zip file that is too large, or would be once unpacked; its members are not touched.

    Python's own reader never yields more of a member than the directory states, so what this adds up is an upper limit.

    Raises
    ------
    OSError, zipfile.BadZipFile
        Where it cannot be read as one.
    ValueError
        Where it is too large.
    """
    if (stored := path.stat().st_size) > MAX_ARCHIVE_BYTES:
        raise ValueError(f"{stored:,} bytes; at most {MAX_ARCHIVE_BYTES:,} are read")
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MAX_UNPACKED_BYTES:
        raise ValueError(f"{unpacked:,} bytes once unpacked; at most {MAX_UNPACKED_BYTES:,} are")
