"""The rows of a guard's log, without the images; needs pyarrow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mifsim.errors import DataError

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_IS_TEXT: Callable[[pa.DataType], bool] = lambda kind: (  # noqa: E731
    pa.types.is_string(kind)
    or pa.types.is_large_string(kind)
    or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type))
)
_COLUMNS: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "client": (_IS_TEXT, "string"),
    "session": (_IS_TEXT, "string"),
    "query": (pa.types.is_integer, "int64"),
    "time": (pa.types.is_timestamp, "timestamp"),
    "content_type": (_IS_TEXT, "string"),
    "shape": (_IS_TEXT, "string"),
    "verdict": (_IS_TEXT, "string"),
    "count": (pa.types.is_floating, "float64"),
    "limit": (pa.types.is_floating, "float64"),
    "answered": (pa.types.is_boolean, "bool"),
    "filter": (_IS_TEXT, "string"),
}
_TEXTS = ("client", "session", "content_type", "shape", "verdict", "filter")
"""Columns whose values are replaced by numbers."""


@dataclass(frozen=True)
class LogRows:
    """The N rows of a log without images; each array has shape (N,), and texts are numbers.

    Attributes
    ----------
    client, session, content_type, shape, verdict, filter : ndarray of int64
        Positions in the list of `texts` with the same name.
    query : ndarray of int64
    time : ndarray of int64
        Microseconds since 1970.
    count, limit : ndarray of float64
    answered : ndarray of bool
    texts : dict of str to list of str
    """

    client: Ints
    session: Ints
    content_type: Ints
    shape: Ints
    verdict: Ints
    filter: Ints
    query: Ints
    time: Ints
    count: npt.NDArray[np.float64]
    limit: npt.NDArray[np.float64]
    answered: Bools
    texts: dict[str, list[str]]

    @property
    def unsafe(self) -> Bools:
        """Which queries blocked their session."""
        return np.equal(self.verdict, _place(self.texts["verdict"], "unsafe"))

    def kept(self, digest: str) -> tuple[Bools, Bools]:
        """Return which rows are of a configuration, and which of them count: those that were not undone."""
        watched = np.equal(self.filter, _place(self.texts["filter"], digest))
        return watched, watched & (self.answered | self.unsafe)


def _place(texts: list[str], text: str) -> int:
    return texts.index(text) if text in texts else -1


def smallest(number: int, groups: Ints, values: Ints) -> Ints:
    """Return the smallest value of each of `number` groups; the largest int64 for a group without one."""
    found = np.full(number, np.iinfo(np.int64).max)
    np.minimum.at(found, groups, values)
    return found


def distinct(number: int, groups: Ints, values: Ints) -> Ints:
    """Return how many different values, from 0 on, each of `number` groups has."""
    span = int(values.max(initial=0)) + 1
    return np.bincount(np.unique(groups * span + values) // span, minlength=number)


def log_files(folder: Path) -> list[Path]:
    """Return the complete Parquet files of a log; hidden ones are incomplete.

    Raises
    ------
    DataError
        If there is none.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DataError(f"{folder}: no such log (expected the folder to which mifsim guard writes)")
    found = folder.rglob("*.parquet")
    files = sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts))
    if not files:
        raise DataError(
            f"{folder}: contains no complete Parquet file (expected the folder to which mifsim guard writes; its files "
            "are hidden until they are complete)"
        )
    return files


def read_rows(folder: Path) -> LogRows:
    """Read the rows of a log.

    Parameters
    ----------
    folder : Path
        The folder of Parquet files, or one of them.

    Raises
    ------
    DataError
        If there is no such log, it has no rows, a file cannot be read, or a column is missing or of another type. The
        message names the file.
    """
    numbers: dict[str, dict[str, int]] = {name: {} for name in _TEXTS}
    parts: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for path in log_files(folder):
        table = _table(path)
        for name, part in parts.items():
            part.append(_encoded(table[name], numbers[name]) if name in numbers else _plain(table[name]))
    arrays = {name: np.concatenate(part) for name, part in parts.items()}
    if not len(arrays["time"]):
        raise DataError(f"{folder}: the log has no rows")
    return LogRows(**arrays, texts={name: list(found) for name, found in numbers.items()})


def _table(path: Path) -> pa.Table:
    try:
        schema = pq.read_schema(path)
        for name, (accepts, expected) in _COLUMNS.items():
            if name not in schema.names:
                raise DataError(
                    f"{path}: has no column {name!r} (expected a log of mifsim guard, with the columns "
                    f"{', '.join(_COLUMNS)})"
                )
            if not accepts(schema.field(name).type):
                raise DataError(f"{path}: column {name!r} is {schema.field(name).type} (expected {expected})")
        table = pq.read_table(path, columns=list(_COLUMNS), partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as a Parquet file: {error}") from None
    for name in table.column_names:
        if table[name].null_count:
            raise DataError(f"{path}: column {name!r} has empty cells (expected a value in each row)")
    return table


def _encoded(column: pa.ChunkedArray, numbers: dict[str, int]) -> Ints:
    """Return texts as numbers; new texts get the next ones."""
    encoded = pc.dictionary_encode(column.cast(pa.string())).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    place = [numbers.setdefault(text, len(numbers)) for text in encoded.dictionary.to_pylist()]
    found: Ints = np.array(place, np.int64)[encoded.indices.to_numpy(zero_copy_only=False)]
    return found


def _plain(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    return np.asarray(column.to_numpy())
