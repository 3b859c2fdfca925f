"""The rows of a query log, from Parquet files or from a folder with a sub-folder for each client.

Logs are untrusted: an unusable row is returned with the reason, and no image is decoded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mifsim.data.image_files import SUFFIXES
from mifsim.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 64
"""Number of rows of a Parquet file in memory at a time."""

READ_BYTES = 2**20
"""Bytes of a column chunk to read at a time: without a limit, pyarrow reads all images of a row group."""

MAX_IMAGE_BYTES = 64 * 2**20
"""Maximum size of one stored image, in bytes; larger images are not decoded."""

MAX_CLIENT_CHARACTERS = 200
"""Maximum length of a client's id."""


class Columns(NamedTuple):
    """The names of the columns of a Parquet log with the client's id, the time and the image."""

    client: str = "client"
    time: str = "time"
    image: str = "image"


class Row(NamedTuple):
    """One query of a log, or the reason why it is unusable.

    Attributes
    ----------
    file : str
        The Parquet file, or the image file in a folder.
    row : int or None
        Number of the row in the Parquet file, from 0; None in a folder.
    client : str or None
        The client's id; None if the row has no valid one.
    time : int or float
        Sort key of a client's queries: microseconds for a timestamp; in a folder, the position of the file name.
    image : bytes
        The image as stored; empty if there is a problem.
    problem : str or None
        The reason why the row is unusable; None if no problem is known.
    """

    file: str
    row: int | None
    client: str | None
    time: int | float = 0
    image: bytes = b""
    problem: str | None = None


def log_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Yield all rows of a log, in the order in which they are stored.

    Parameters
    ----------
    path : Path
        A Parquet file, a folder of Parquet files (read in the order of their names), or a folder with a sub-folder for
        each client, in which the order of the file names is the order of time.
    columns : Columns
        Column names in Parquet files. The client is text or a whole number; the time is a timestamp, a date or a
        number; the image is the bytes of a PNG or JPEG file, or a path relative to the log's folder and inside it.

    Raises
    ------
    DataError
        If the log does not exist, or one of its files is not a Parquet file, lacks a column or has a column of another
        type.
    """
    parts = _parquet_files(path)
    if not parts:
        yield from _folder_rows(path)
        return
    first: tuple[pa.DataType, ...] | None = None
    for part in parts:
        with _open(part) as file:
            kinds = _kinds(part, file.schema_arrow, columns)
            if first is not None and kinds != first:
                raise DataError(f"{part}: columns of type {_words(kinds)}; {parts[0].name} has {_words(first)}")
            first = kinds
            yield from _parquet_rows(part, file, columns)


def stamps(path: Path, columns: Columns) -> Iterator[tuple[str, int, int, int]]:
    """Yield the name, size in bytes, modification time and inode change time (in ns) of every file of a log.

    Programs cannot set the inode change time, so a log with equal stamps is unchanged.
    """
    import pyarrow as pa

    parts = _parquet_files(path)
    for part in parts:
        yield _stamp(part)
        with _open(part) as file:
            image = _kinds(part, file.schema_arrow, columns)[2]
            if _is_text(image):
                for batch in file.iter_batches(4096, columns=[columns.image]):
                    for text in _texts(batch.column(0).cast(pa.string())):
                        if text is not None and (found := _inside(part.parent, text)) is not None:
                            yield _stamp(found)
    if not parts:
        for _, member in _members(path):
            yield _stamp(member)


def _stamp(path: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (str(path), -1, 0, 0)
    return (str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"log {path}: no such file or folder")
    return sorted(path.glob("*.parquet"))


def _open(path: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"log {path}: not a Parquet file: {_one_line(error)}") from None


def _kinds(path: Path, schema: pa.Schema, columns: Columns) -> tuple[pa.DataType, ...]:
    """Return the types of the three columns (of dictionaries, the value types); raise an error for other types."""
    import pyarrow as pa

    is_ = pa.types
    accepted: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
        "client": ("text or whole numbers", lambda kind: _is_text(kind) or is_.is_integer(kind)),
        "time": (
            "timestamps, dates or numbers",
            lambda kind: is_.is_timestamp(kind) or is_.is_date(kind) or is_.is_integer(kind) or is_.is_floating(kind),
        ),
        "image": (
            "bytes or paths",
            lambda kind: is_.is_binary(kind) or is_.is_large_binary(kind) or _is_text(kind),
        ),
    }
    kinds = []
    for role, name in columns._asdict().items():
        if schema.names.count(name) != 1:
            raise DataError(
                f"log {path}: {role}_column = {name!r}: must name exactly one of the columns {', '.join(schema.names)}"
            )
        kind = schema.field(name).type
        if is_.is_dictionary(kind) and role != "time":
            kind = kind.value_type
        words, fits = accepted[role]
        if not fits(kind):
            raise DataError(f"log {path}: {role}_column = {name!r}: has type {kind} (accepted: {words})")
        kinds.append(kind)
    return tuple(kinds)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _words(kinds: tuple[pa.DataType, ...]) -> str:
    return ", ".join(map(str, kinds))


def _parquet_rows(path: Path, file: pq.ParquetFile, columns: Columns) -> Iterator[Row]:
    import pyarrow as pa

    name, at = _shown(path), 0
    as_paths = _is_text(_kinds(path, file.schema_arrow, columns)[2])
    for group in range(file.num_row_groups):
        end = at + file.metadata.row_group(group).num_rows
        try:
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(columns), use_threads=False):
                clients = _texts(batch.column(columns.client).cast(pa.string()))
                times = _plain_times(batch.column(columns.time)).to_pylist()
                images = batch.column(columns.image)
                images = _texts(images.cast(pa.string())) if as_paths else images.to_pylist()
                for client, time, image in zip(clients, times, images, strict=True):
                    yield _checked(name, at, client, time, image, path.parent)
                    at += 1
        except (pa.ArrowException, OSError) as error:
            for lost in range(at, end):
                yield Row(name, lost, None, problem=f"the file is damaged: {_one_line(error)}")
        at = end


def _texts(column: pa.Array) -> list[str | None]:
    """Return a column of text; bytes that are not UTF-8 are escaped, as an error would affect all rows."""
    import pyarrow as pa

    raw = column.cast(pa.binary()).to_pylist()
    return [None if text is None else text.decode("utf-8", "backslashreplace") for text in raw]


def _plain_times(times: pa.Array) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_date(times.type):
        times = times.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(times.type):
        # Safe casts refuse fractions of a microsecond. The time zone affects how a time is printed, not its value.
        times = times.cast(pa.timestamp("us", times.type.tz), safe=False).cast(pa.int64())
    return times


def _checked(
    file: str, row: int, client: str | None, time: int | float | None, image: bytes | str | None, folder: Path
) -> Row:
    if client is None:
        return Row(file, row, None, problem="no client")
    if len(client) > MAX_CLIENT_CHARACTERS:
        problem = f"a client's id of {len(client):,} characters; accepted: at most {MAX_CLIENT_CHARACTERS}"
        return Row(file, row, None, problem=problem)
    if time is None or time != time:
        return Row(file, row, client, problem="no time")
    if image is None:
        return Row(file, row, client, problem="no image")
    if isinstance(image, bytes):
        return _measured(Row(file, row, client, time, image))
    found = _inside(folder, image)
    if found is None:
        return Row(file, row, client, problem=f"{image[:200]!r}: outside the log's folder")
    return _read(Row(file, row, client, time), found)


def _inside(folder: Path, text: str) -> Path | None:
    """Resolve a path in the log; return None if it is outside the log's folder."""
    try:
        root = folder.resolve()
        found = (root / text).resolve()
    except (OSError, ValueError, RuntimeError):  # too long, contains a NUL, or circular links
        return None
    return found if found.is_relative_to(root) else None


def _read(row: Row, path: Path) -> Row:
    try:
        if not path.is_file():  # reading a pipe or a device would never end
            return row._replace(problem=f"{_shown(path)[:200]!r}: no such file")
        with path.open("rb") as file:
            return _measured(row._replace(image=file.read(MAX_IMAGE_BYTES + 1)))
    except OSError as error:
        return row._replace(problem=f"{_shown(path)[:200]!r}: cannot be read: {error.strerror or error}")


def _measured(row: Row) -> Row:
    if len(row.image) > MAX_IMAGE_BYTES:
        return row._replace(image=b"", problem=f"an image of more than {MAX_IMAGE_BYTES:,} bytes")
    return row


def _folder_rows(path: Path) -> Iterator[Row]:
    for number, (client, member) in enumerate(_members(path)):
        row = Row(_shown(member), None, client, number)
        if client is None:
            yield row._replace(problem="not in a client's sub-folder")
        elif member.suffix.lower() not in SUFFIXES:
            yield row._replace(problem=f"not an image file of a known kind; accepted: {', '.join(SUFFIXES)}")
        else:
            yield _read(row, member)


def _members(path: Path) -> Iterator[tuple[str | None, Path]]:
    """Yield each file of a folder with the name of its sub-folder, sorted by name; hidden files are skipped."""
    for entry in sorted(found for found in path.iterdir() if not found.name.startswith(".")):
        if entry.is_dir():
            for member in sorted(found for found in entry.iterdir() if not found.name.startswith(".")):
                yield _shown(entry.name), member
        else:
            yield None, entry


def _shown(name: Path | str) -> str:
    """Return a file name as text that can be stored; bytes that are not UTF-8 are escaped."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
