"""The sessions of a guard's log, as the watch counts them; needs pyarrow."""

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
from mifsim.watch.coverage import Coverage, other_format, other_shape
from mifsim.watch.near_misses import nearness_bin
from mifsim.watch.promise import Promise
from mifsim.watch.sessions import Cut, WatchedSession

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
_TEXTS = ("session", "content_type", "shape", "verdict", "filter")
"""Columns whose values are replaced by numbers."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WatchedLog:
    """What a log tells.

    Attributes
    ----------
    sessions : list of WatchedSession
        The decided sessions, in the order of their start.
    outside : list of bool
        Whether the certificate does not cover each of them.
    coverage : Coverage
        Of the decided sessions.
    rows : int
        Number of rows, of all configurations.
    other_filters : dict of str to int
        Number of rows of other configurations, which are left out, by digest.
    unanswered : int
        Number of rows without an answer, which are left out: these queries were undone.
    undecided : int
        Number of sessions that are younger than the age of the cut.
    without_start : int
        Number of sessions whose first query is not in the log, which are left out.
    incomplete : int
        Number of decided sessions of which some other row is missing.
    end : float
        Time of the last row, in seconds since 1970.
    """

    sessions: list[WatchedSession]
    outside: list[bool]
    coverage: Coverage
    rows: int
    other_filters: dict[str, int]
    unanswered: int
    undecided: int
    without_start: int
    incomplete: int
    end: float


def read_log(folder: Path, digest: str, promise: Promise, cut: Cut) -> WatchedLog:
    """Read the log of a guard.

    Parameters
    ----------
    folder : Path
        The folder of Parquet files, or one of them.
    digest : str
        Digest of the filter that is watched; rows of others are left out.
    promise : Promise
    cut : Cut

    Returns
    -------
    WatchedLog

    Raises
    ------
    DataError
        If there is no such log, it has no rows, a file cannot be read, or a column is missing or of another type. The
        message names the file.

    Notes
    -----
    Sessions are decided by the time of the log's last row, not by the present time, because rows are hidden until
    their file is complete. A session whose first query is not in the log is left out: among the sessions that started
    before the log did, only long ones are seen. A session of which another row is missing counts, as blocked only if
    the row that blocks it is there. So each session counts as blocked at most if it was, which keeps false alarms
    rare; lost rows can only hide a block.
    """
    rows = _rows(folder)
    watched, kept = rows.kept(digest)
    last = int(rows.time.max())
    other = np.bincount(rows.filter[~watched], minlength=len(rows.texts["filter"]))
    number = len(rows.texts["session"])
    first_query = _smallest(number, rows.session[watched], rows.query[watched])
    session, query, time = rows.session[kept], rows.query[kept], rows.time[kept]
    start = _smallest(number, session, time)
    present = np.bincount(session, minlength=number) > 0
    has_start = present & (first_query == 1)
    unsafe = rows.unsafe[kept]
    blocked_time = _smallest(number, session[unsafe], time[unsafe])
    blocked_at = _smallest(number, session[unsafe], query[unsafe])
    queries = np.zeros(number, np.int64)
    np.maximum.at(queries, session, query)
    within = (time - start[session] <= cut.age * 1e6) & (query <= cut.queries)
    nearness = np.zeros(number, np.int64)
    np.maximum.at(nearness, session[within], nearness_bin(rows.count, rows.limit)[kept][within])
    known = np.unique(np.stack([session, query]), axis=1)[0]
    missing = np.bincount(known, minlength=number) < queries
    never = np.iinfo(np.int64).max
    found = [
        WatchedSession(
            start[i] / 1e6,
            rows.texts["session"][i],
            float("inf") if blocked_time[i] == never else blocked_time[i] / 1e6,
            0 if blocked_at[i] == never else int(blocked_at[i]),
            int(queries[i]),
            int(nearness[i]),
        )
        for i in np.flatnonzero(has_start).tolist()
    ]
    sessions = cut.decided(found, last / 1e6)
    place = {key: i for i, key in enumerate(rows.texts["session"])}
    order = np.array([place[item.key] for item in sessions], np.int64)
    outside, coverage = _covered(rows, kept, order, queries, promise)
    return WatchedLog(
        sessions,
        outside,
        coverage,
        len(rows.time),
        {rows.texts["filter"][i]: int(other[i]) for i in np.flatnonzero(other).tolist()},
        int((watched & ~kept).sum()),
        len(found) - len(sessions),
        int((present & ~has_start).sum()),
        int(missing[order].sum()),
        last / 1e6,
    )


def _covered(
    rows: _Rows, kept: npt.NDArray[np.bool_], order: Ints, queries: Ints, promise: Promise
) -> tuple[list[bool], Coverage]:
    """Return whether each session of an order is outside of the certificate, and the coverage of all of them."""
    number = len(rows.texts["session"])
    seen = {name: np.zeros(number, np.bool_) for name in ("shape", "content_type")}
    counts: dict[str, dict[str, int]] = {name: {} for name in seen}
    decided = np.zeros(number, np.bool_)
    decided[order] = True
    for name, is_other in (("shape", other_shape), ("content_type", other_format)):
        values = getattr(rows, name)
        for i, text in enumerate(rows.texts[name]):
            members = np.zeros(number, np.bool_)
            members[rows.session[kept & (values == i)]] = True
            members &= decided
            if members.any():
                counts[name][text] = int(members.sum())
            if is_other(text, promise):
                seen[name] |= members
    longer = decided & (queries > promise.longest)
    outside = longer | seen["shape"] | seen["content_type"]
    return outside[order].tolist(), Coverage(
        len(order),
        int(longer.sum()),
        int(seen["shape"].sum()),
        int(seen["content_type"].sum()),
        int(outside.sum()),
        counts["shape"],
        counts["content_type"],
    )


@dataclass(frozen=True)
class _Rows:
    """The rows of a log without images; texts are numbers, whose meaning is in `texts`."""

    session: Ints
    content_type: Ints
    shape: Ints
    verdict: Ints
    filter: Ints
    query: Ints
    time: Ints
    count: npt.NDArray[np.float64]
    limit: npt.NDArray[np.float64]
    answered: npt.NDArray[np.bool_]
    texts: dict[str, list[str]]

    @property
    def unsafe(self) -> npt.NDArray[np.bool_]:
        return np.equal(self.verdict, _place(self.texts["verdict"], "unsafe"))

    def kept(self, digest: str) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return which rows are of a configuration, and which of them count: those that were not undone."""
        watched = np.equal(self.filter, _place(self.texts["filter"], digest))
        return watched, watched & (self.answered | self.unsafe)


def _place(texts: list[str], text: str) -> int:
    return texts.index(text) if text in texts else -1


def _smallest(number: int, groups: Ints, values: Ints) -> Ints:
    """Return the smallest value of each of `number` groups; the largest int64 for a group without one."""
    found = np.full(number, np.iinfo(np.int64).max)
    np.minimum.at(found, groups, values)
    return found


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
    files = sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith("."))
    if not files:
        raise DataError(f"{folder}: contains no Parquet file (expected the folder to which mifsim guard writes)")
    return files


def _rows(folder: Path) -> _Rows:
    numbers: dict[str, dict[str, int]] = {name: {} for name in _TEXTS}
    parts: dict[str, list[Any]] = {name: [] for name in _COLUMNS if name != "client"}
    for path in log_files(folder):
        table = _table(path)
        for name, part in parts.items():
            part.append(_encoded(table[name], numbers[name]) if name in numbers else _plain(table[name]))
    arrays = {name: np.concatenate(part) for name, part in parts.items()}
    if not len(arrays["time"]):
        raise DataError(f"{folder}: the log has no rows")
    return _Rows(**arrays, texts={name: list(found) for name, found in numbers.items()})


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
        table = pq.read_table(path, columns=[name for name in _COLUMNS if name != "client"], partitioning=None)
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
