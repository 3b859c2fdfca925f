"""The index of a log: what one pass over its rows finds, as arrays of a few bytes for each row."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from mifsim.data.logs.bad_rows import BadRow, BadRowWriter
from mifsim.data.logs.copies import find_repeats
from mifsim.data.logs.format import BATCH_ROWS, LogFormat, one_line
from mifsim.data.logs.ordering import common_times
from mifsim.data.logs.pictures import grey_values
from mifsim.data.logs.reading import log_rows
from mifsim.data.logs.rows import Row
from mifsim.errors import DataError

T = TypeVar("T")
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LogIndex:
    """The N rows of a log that have a client, usable or not.

    Attributes
    ----------
    rows : int
        Number of all rows.
    bad : int
        Number of unusable rows.
    without_client : int
        How many of these have no client.
    clients : tuple of str
        Ids of the clients, in the order of a digest of the ids. The first n of them are therefore a sample that depends
        neither on their times nor on their number of queries.
    content : str
        A digest of the rows with an image: equal digests mean equal queries.
    per_second : int or None
        How much the times increase in a second; None if it is not known.
    by_name : bool
        Whether the order is that of file names, which have no times.
    days_only : bool
        Whether the times tell only the day.
    tied, descents : int
        See `mifsim.data.logs.copies.Repeats`.
    far : int
        Number of rows whose times are years away from those of most rows.
    first_far : str or None
        The first of these times, as text.
    floats : bool
        Whether an image is an array of floats.
    first_bad : str or None
        The first unusable row with its problem, as text.
    problems : mapping of str to int
        Number of unusable rows by problem.
    number : ndarray of int64, shape (N,)
        Position of each row among all rows.
    client, session : ndarray of int32, shape (N,)
        Index of the client in `clients`, and of its session (-1: the log has none).
    times : ndarray of int64 or float64, shape (N,)
        Sort keys.
    timed, usable : ndarray of bool, shape (N,)
        Whether the row has a time, and whether it is usable.
    copy, retry : ndarray of bool, shape (N,)
        See `mifsim.data.logs.copies.Repeats`; `retry` has shape (0,) if it is not known.
    height, width : ndarray of int32, shape (N,)
        Size of the image in pixels; 0 for unusable rows.
    query : ndarray of int64, shape (N,) or (0,)
        Number of each query within its session, in the traffic log of a guard; shape (0,) for other logs.
    unanswered : int
        Number of rows of a guard's queries that were undone. They are not among the N rows.
    """

    rows: int
    bad: int
    without_client: int
    clients: tuple[str, ...] = field(repr=False)
    content: str
    per_second: int | None
    by_name: bool
    days_only: bool
    tied: int
    descents: int
    far: int
    first_far: str | None
    floats: bool
    first_bad: str | None
    problems: dict[str, int] = field(repr=False)
    number: npt.NDArray[np.int64] = field(repr=False)
    client: npt.NDArray[np.int32] = field(repr=False)
    session: npt.NDArray[np.int32] = field(repr=False)
    times: npt.NDArray[np.int64] | npt.NDArray[np.float64] = field(repr=False)
    timed: Bools = field(repr=False)
    usable: Bools = field(repr=False)
    copy: Bools = field(repr=False)
    retry: Bools = field(repr=False)
    height: npt.NDArray[np.int32] = field(repr=False)
    width: npt.NDArray[np.int32] = field(repr=False)
    query: npt.NDArray[np.int64] = field(repr=False)
    unanswered: int

    @property
    def seconds(self) -> npt.NDArray[np.float64] | None:
        """The times in seconds from the earliest, exact to the microsecond; None if their unit is not known."""
        if self.per_second is None:
            return None
        values = self.times.astype(np.float64)  # a difference of two int64 may exceed their range
        start = values[self.timed].min() if self.timed.any() else 0.0
        found: npt.NDArray[np.float64] = (values - start) / self.per_second
        return found


class Seen(NamedTuple):
    """What is kept of a usable image: its size in pixels, and digests of its bytes and of the decoded image."""

    height: int
    width: int
    stored: tuple[int, int]
    decoded: int


class _Entries:
    """Columns of the index while they are filled: compact arrays, as a log has up to millions of rows."""

    def __init__(self) -> None:
        self.number, self.client, self.session = array("q"), array("i"), array("Q")
        self.kind, self.whole, self.real = array("b"), array("q"), array("d")
        self.usable, self.height, self.width, self.query = array("b"), array("i"), array("i"), array("q")
        self.stored, self.stored_rest, self.decoded = array("Q"), array("Q"), array("Q")

    def add(self, number: int, client: int, row: Row, seen: Seen | None) -> None:
        self.number.append(number)
        self.client.append(client)
        self.session.append(NO_SESSION if row.session is None else _digest_of(f"{client}\0{row.session}"))
        self.kind.append(-1 if row.kind is None else int(row.kind))
        self.whole.append(row.time if isinstance(row.time, int) else 0)
        self.real.append(row.time if isinstance(row.time, float) else 0.0)
        self.usable.append(seen is not None)
        found = seen or Seen(0, 0, (0, 0), 0)
        self.height.append(found.height)
        self.width.append(found.width)
        self.stored.append(found.stored[0])
        self.stored_rest.append(found.stored[1])
        self.decoded.append(found.decoded)
        self.query.append(row.query)


NO_SESSION = 0
"""Stands for the digest of a session in a row that has none."""


def _digest_of(text: str) -> int:
    """Return 64 bits, which take less memory than the ids of millions of sessions."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _numbered(digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """Return a number for each different session, from 0; -1 for none."""
    known = digests != NO_SESSION
    numbers = np.full(len(digests), -1, np.int32)
    numbers[known] = np.unique(digests[known], return_inverse=True)[1]
    return numbers


def build_index(path: Path, form: LogFormat, bad: BadRowWriter) -> LogIndex:
    """Read a log, decode every image, and write its unusable rows to `bad`.

    Raises
    ------
    DataError
        If the log cannot be read, has no usable row, or its times have no common order.
    """
    sha = hashlib.sha256()
    clients: dict[str, int] = {}
    files: list[tuple[str, int]] = []  # name and number of the first row of each Parquet file
    entries, number, without_client, unanswered, floats = _Entries(), -1, 0, 0, False
    for number, (row, found) in enumerate(in_threads(examined, log_rows(path, form))):
        if row.row == 0:
            files.append((row.file, number))
        if row.unanswered:
            unanswered += 1
            continue
        seen = None if isinstance(found, str) else found
        if isinstance(found, str):
            bad.add(BadRow(row.file, row.row, row.client, found))
        else:
            update_digest(row, sha)
            floats = floats or (row.exact is not None and row.exact.dtype[1] == "f")
        if row.client is None:
            without_client += 1
            continue
        client = clients.setdefault(row.client, len(clients))
        entries.add(number, client, row, seen)
    if not any(entries.usable):
        why = f"none of its {number + 1:,} rows can be used, the first: {bad.first}" if bad.count else "it has no rows"
        raise DataError(f"log {path}: {why}")
    kinds = np.array(entries.kind, np.int8)
    timed, usable = kinds >= 0, np.array(entries.usable, np.bool_)
    times = common_times(
        np.maximum(kinds, 0),
        np.array(entries.whole, np.int64),
        np.array(entries.real),
        timed,
        form.time_unit,
        str(path),
    )
    names = list(clients)
    client_of = np.array(entries.client, np.int32)
    numbers = np.array(entries.number, np.int64)
    starts = np.array([first for _, first in files], np.int64)
    for place, problem in times.problems.items():
        file, first = files[int(np.searchsorted(starts, numbers[place], side="right")) - 1]
        if usable[place]:  # otherwise it is counted already
            bad.add(BadRow(file, int(numbers[place] - first), names[client_of[place]], problem))
    usable &= ~times.odd
    if not usable.any():
        raise DataError(f"log {path}: none of its {number + 1:,} rows can be used, the first: {bad.first}")
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    rank = np.empty(len(names), np.int32)
    rank[[clients[name] for name in order]] = np.arange(len(names), dtype=np.int32)
    session_of = _numbered(np.array(entries.session, np.uint64))
    stored = np.array(entries.stored, np.uint64), np.array(entries.stored_rest, np.uint64)
    known_unit = None if times.days_only else times.per_second
    repeats = find_repeats(
        usable, client_of, session_of, times.values, stored, np.array(entries.decoded, np.uint64), known_unit
    )
    return LogIndex(
        rows=number + 1,
        bad=bad.count,
        without_client=without_client,
        clients=tuple(order),
        content=sha.hexdigest()[:16],
        per_second=times.per_second,
        by_name=times.by_name,
        days_only=times.days_only,
        tied=repeats.tied,
        descents=repeats.descents,
        far=times.far,
        first_far=times.first_far,
        floats=floats,
        first_bad=None if bad.first is None else str(bad.first),
        problems=dict(bad.kinds.most_common()),
        number=numbers,
        client=rank[client_of],
        session=session_of,
        times=times.values,
        timed=timed & ~times.odd,
        usable=usable,
        copy=repeats.copy,
        retry=np.zeros(0, np.bool_) if repeats.retry is None else repeats.retry,
        height=np.array(entries.height, np.int32),
        width=np.array(entries.width, np.int32),
        query=np.array(entries.query if form.traffic else [], np.int64),
        unanswered=unanswered,
    )


def in_threads(work: Callable[[Row], T], rows: Iterator[Row]) -> Iterator[tuple[Row, T]]:
    """Yield each row with the result of `work`, in order; threads are used, as OpenCV releases the GIL."""
    threads = os.cpu_count() or 1
    size = -(-BATCH_ROWS // threads)

    def together(some: list[Row]) -> list[T]:
        return [work(row) for row in some]

    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(rows, BATCH_ROWS)):
            parts = [batch[start : start + size] for start in range(0, len(batch), size)]
            for part, results in zip(parts, pool.map(together, parts), strict=True):
                yield from zip(part, results, strict=True)


def update_digest(row: Row, sha: Any) -> None:
    """Add a row with an image to the digest of a log's content."""
    exact = () if row.exact is None else tuple(row.exact)
    sha.update(repr((row.client, row.session, row.kind, row.time, exact, len(row.image))).encode())
    sha.update(row.image)


def examined(row: Row) -> Seen | str:
    """Decode the image of a row; return what is kept of it, or the reason why the row is unusable."""
    if row.problem is not None or row.unanswered:
        return row.problem or "the query was undone"
    try:
        pixels = grey_values(row.image, row.exact)
    except ValueError as error:
        return str(error)
    except Exception as error:  # decoders of damaged images raise many types, and only this row is unusable
        return f"cannot be decoded: {one_line(error)}"
    stored = hashlib.blake2b(row.image, digest_size=16).digest()
    decoded = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=8)
    decoded.update(np.ascontiguousarray(pixels).data)  # without a copy: an image may have 64 million pixels
    return Seen(
        pixels.shape[0],
        pixels.shape[1],
        (int.from_bytes(stored[:8], "little"), int.from_bytes(stored[8:], "little")),
        int.from_bytes(decoded.digest(), "little"),
    )
