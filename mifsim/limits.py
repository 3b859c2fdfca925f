"""Size limits for files from untrusted sources, checked before a file is unpacked or read into memory."""

from __future__ import annotations

import zipfile
from pathlib import Path

MAX_ARCHIVE_BYTES = 2 * 2**30
"""Maximum size of a stored model file or archive of a data set, in bytes."""

MAX_UNPACKED_BYTES = 4 * 2**30
"""Maximum total size of the unpacked members of an archive, in bytes: a few kilobytes can unpack to any size."""


def read_plain(path: Path, limit: int) -> bytes:
    """Read a regular file of limited size.

    Parameters
    ----------
    path : Path
        The file.
    limit : int
        Maximum size in bytes.

    Returns
    -------
    bytes
        The content.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a regular file (reading a pipe or a device may never end), or has more than `limit` bytes.
    """
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"larger than {limit:,} bytes, the maximum size")
    return content


def check_zip(path: Path) -> None:
    """Raise an error if a zip file is too large, stored or unpacked; no member is unpacked.

    The unpacked size is the sum of the sizes stated in the archive's directory. Python's zip reader never returns more
    bytes of a member than its stated size, so that the sum is an upper bound.

    Raises
    ------
    OSError, zipfile.BadZipFile
        If the file cannot be read as a zip file.
    ValueError
        If it is larger than `MAX_ARCHIVE_BYTES`, or its unpacked members are larger than `MAX_UNPACKED_BYTES`.
    """
    if (stored := path.stat().st_size) > MAX_ARCHIVE_BYTES:
        raise ValueError(f"{stored:,} bytes (accepted: at most {MAX_ARCHIVE_BYTES:,})")
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MAX_UNPACKED_BYTES:
        raise ValueError(f"{unpacked:,} bytes once unpacked (accepted: at most {MAX_UNPACKED_BYTES:,})")
