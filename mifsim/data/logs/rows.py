"""One row of a log, and reading of the image file that it names."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from mifsim.data.image_files import plain_name
from mifsim.data.logs.format import MAX_IMAGE_BYTES, excerpt


class TimeKind(IntEnum):
    """What the time of a row is; times of different kinds have no common order."""

    INSTANT = 0
    """Nanoseconds since 1970 in UTC: a time with a zone."""
    LOCAL = 1
    """Nanoseconds since 1970 by a clock whose zone the log does not state."""
    NUMBER = 2
    """A whole number of a unit that the row does not state."""
    REAL = 3
    """A number that may have a fraction."""
    POSITION = 4
    """The position of a file name among the names of its folder."""


class Exact(NamedTuple):
    """The dtype (``<f4`` or another that numpy knows) and the shape of an image that is stored as an array's bytes."""

    dtype: str
    shape: tuple[int, ...]


class Row(NamedTuple):
    """One query of a log, or the reason why it is unusable.

    Attributes
    ----------
    file : str
        The Parquet file, or the image file in a folder.
    row : int or None
        Number of the row in the Parquet file, from 0; None in a folder.
    client, session : str or None
        The ids of client and session; None if the row has no valid one, or the log has no sessions.
    kind : TimeKind or None
        The kind of the time; None if the row has no valid time.
    time : int or float
        The time, in the unit of its kind.
    image : bytes
        The image as stored; empty if there is a problem.
    exact : Exact or None
        How the bytes form an array; None if they are those of an image file.
    problem : str or None
        The reason why the row is unusable; None if no problem is known.
    query : int
        Number of the query within its session, from 1, in the traffic log of a guard; 0 in other logs.
    unanswered : bool
        Whether a guard has undone the query, so that it is in no session.
    """

    file: str
    row: int | None
    client: str | None = None
    session: str | None = None
    kind: TimeKind | None = None
    time: int | float = 0
    image: bytes = b""
    exact: Exact | None = None
    problem: str | None = None
    query: int = 0
    unanswered: bool = False


def inside(folder: Path, text: str) -> Path | None:
    """Resolve a path in the log; return None if it is outside the log's folder."""
    try:
        root = folder.resolve()
        found = (root / text).resolve()
    except (OSError, ValueError, RuntimeError):  # too long, contains a NUL, or circular links
        return None
    return found if found.is_relative_to(root) else None


def read_file(row: Row, path: Path) -> Row:
    """Return a row with the content of an image file, or with the reason why it cannot be read."""
    try:
        if not path.is_file():  # reading a pipe or a device would never end
            return row._replace(problem=f"{excerpt(plain_name(path.name))}: no such file")
        with path.open("rb") as file:
            return measured(row._replace(image=file.read(MAX_IMAGE_BYTES + 1)))
    except OSError as error:
        return row._replace(problem=f"{excerpt(plain_name(path.name))}: cannot be read: {error.strerror or error}")


def measured(row: Row) -> Row:
    """Return a row, or one with a problem if its image has too many bytes."""
    if len(row.image) > MAX_IMAGE_BYTES:
        return row._replace(image=b"", exact=None, problem=f"an image of more than {MAX_IMAGE_BYTES:,} bytes")
    return row
