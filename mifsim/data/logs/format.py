"""The format of a log, as a study states it, and the limits of what is read from one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BATCH_ROWS = 64
"""Number of rows of a Parquet file in memory at a time."""

READ_BYTES = 2**20
"""Bytes of a column chunk to read at a time: without a limit, pyarrow reads all images of a row group."""

MAX_IMAGE_BYTES = 64 * 2**20
"""Maximum size of one stored image, in bytes; larger images are not decoded."""

MAX_ID_CHARACTERS = 200
"""Maximum length of the id of a client or a session."""

SHOWN_CHARACTERS = 40
"""Number of characters of a cell that a message shows: a cell may hold a private image."""

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")

ImageEncoding = Literal["file", "base64", "hex", "raw"]
"""How an image is stored: as an image file's bytes or its path; as such bytes in base64 (also as a data URL) or
hexadecimal; or as the bytes of an array, whose dtype and shape are in further columns."""

TimeUnit = Literal["s", "ms", "us", "ns"]
"""Unit of times that are stored as numbers since 1970."""


@dataclass(frozen=True)
class LogFormat:
    """The names of a Parquet log's columns, and the encoding of their cells.

    Attributes
    ----------
    client, time, image : str
        Columns of the client's id, the time and the image.
    session : str or None
        Column of the session's id, which identifies a session together with the client's id; None: the log has none.
    encoding : ImageEncoding
    dtype, shape : str
        Columns of an array's dtype and shape; read only with the encoding ``"raw"``.
    time_unit : TimeUnit or None
        Unit of times that are numbers; None: derived from their size, if that is possible.
    traffic : bool
        Whether it is the traffic log of a guard, with a number for each query of a session, and with queries that were
        undone.
    """

    client: str = "client"
    time: str = "time"
    image: str = "image"
    session: str | None = None
    encoding: ImageEncoding = "file"
    dtype: str = "dtype"
    shape: str = "shape"
    time_unit: TimeUnit | None = None
    traffic: bool = False

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are read, by their role."""
        names = {"client": self.client, "time": self.time, "image": self.image}
        if self.session is not None:
            names["session"] = self.session
        if self.encoding == "raw":
            names |= {"dtype": self.dtype, "shape": self.shape}
        if self.traffic:
            names |= {"query": "query", "answered": "answered"}
        return names


def excerpt(text: str) -> str:
    """Return a cell's text for a message: at most `SHOWN_CHARACTERS`, without control characters."""
    shown = "".join(character if character.isprintable() else "?" for character in text[:SHOWN_CHARACTERS])
    return f"'{shown}'" if len(text) <= SHOWN_CHARACTERS else f"'{shown}' (the first {SHOWN_CHARACTERS} characters)"


def one_line(error: Exception) -> str:
    """Return an error's message on one line, shortened."""
    return " ".join(str(error).split())[:200]


def is_parquet(name: str) -> bool:
    """Return whether a file name is that of a Parquet file which is not hidden."""
    return name.lower().endswith(PARQUET_SUFFIXES) and not name.startswith((".", "_"))
