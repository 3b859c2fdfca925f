"""A mark in a run's folder, by which processes on other machines can tell that they see the same folder.

A path that is there on one machine may be another folder, or none, on the next. A session host on such a machine would
write its rows where nobody looks for them.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

from mifsim.cache import atomic_write
from mifsim.errors import UserError
from mifsim.tables.storage import Folder, folder

SENTINEL_PREFIX = ".seen-"
"""What its name begins with: hidden, so that it is none of the run's files."""


@contextlib.contextmanager
def sentinel_file(place: Folder) -> Iterator[str]:
    """Leave a mark in a folder for as long as the context lasts; give its path or URL."""
    sentinel = place / f"{SENTINEL_PREFIX}{secrets.token_hex(8)}"
    try:
        with atomic_write(sentinel) as file:
            file.write_text(sentinel.name)
        yield str(sentinel)
    finally:
        with contextlib.suppress(OSError):  # the storage may be what failed
            sentinel.unlink(missing_ok=True)


def remove_sentinels(place: Folder) -> None:
    """Remove the marks that a killed driver left in a folder, which must be in nobody's use."""
    for left in place.glob(f"{SENTINEL_PREFIX}*"):
        left.unlink(missing_ok=True)


def sees_sentinel(sentinel: str) -> bool:
    """Return whether this process sees the folder that a mark was left in."""
    try:
        place = folder(sentinel)
        return place.read_text() == place.name
    except (OSError, UserError):
        return False
