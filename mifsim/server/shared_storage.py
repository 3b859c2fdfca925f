"""Shared-storage check: a sentinel file in the run folder shows whether other machines see the same folder.

On another machine, the same path may be a different folder or not exist. The driver would not find the rows that a
session host on such a machine writes.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

from mifsim.cache import atomic_write
from mifsim.errors import UserError
from mifsim.tables.storage import Folder, folder

SENTINEL_PREFIX = ".seen-"
"""Prefix of the file's name; the leading dot excludes it from the run's files."""


@contextlib.contextmanager
def sentinel_file(directory: Folder) -> Iterator[str]:
    """Create a sentinel file in a folder for the duration of the context; yield its path or URL."""
    sentinel = directory / f"{SENTINEL_PREFIX}{secrets.token_hex(8)}"
    try:
        with atomic_write(sentinel) as file:
            file.write_text(sentinel.name)
        yield str(sentinel)
    finally:
        with contextlib.suppress(OSError):  # the storage itself may have failed
            sentinel.unlink(missing_ok=True)


def remove_sentinels(directory: Folder) -> None:
    """Remove the sentinel files that a killed driver has left in a folder; no run may be using the folder."""
    for sentinel in directory.glob(f"{SENTINEL_PREFIX}*"):
        sentinel.unlink(missing_ok=True)


def sees_sentinel(sentinel: str) -> bool:
    """Return whether this process sees the folder of a sentinel file."""
    try:
        file = folder(sentinel)
        return file.read_text() == file.name
    except (OSError, UserError):
        return False
