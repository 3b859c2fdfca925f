"""A mark in a run's folder, by which processes on other machines can tell that they see the same folder.

A path that is there on one machine may be another folder, or none, on the next. A session host on such a machine would
write its rows where nobody looks for them.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

from mifsim.cache import whole_file
from mifsim.errors import UserError
from mifsim.storage import Folder, folder

MARK = ".seen-"
"""What its name begins with: hidden, so that it is none of the run's files."""


@contextlib.contextmanager
def marked(place: Folder) -> Iterator[str]:
    """Leave a mark in a folder for as long as the context lasts; give its path or URL."""
    mark = place / f"{MARK}{secrets.token_hex(8)}"
    try:
        with whole_file(mark) as file:
            file.write_text(mark.name)
        yield str(mark)
    finally:
        with contextlib.suppress(OSError):  # the storage may be what failed
            mark.unlink(missing_ok=True)


def sweep_marks(place: Folder) -> None:
    """Remove the marks that a killed driver left in a folder, which must be in nobody's use."""
    for left in place.glob(f"{MARK}*"):
        left.unlink(missing_ok=True)


def sees(mark: str) -> bool:
    """Return whether this process sees the folder that a mark was left in."""
    try:
        place = folder(mark)
        return place.read_text() == place.name
    except (OSError, UserError):
        return False
