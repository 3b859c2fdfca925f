"""A log of real queries: the images of each client, in order of time.

A log is read in two passes. The first finds the usable rows; the second converts the images to the data set's shape and
memory-maps them. Both have only some rows in memory at a time. Their results are cached; the passes run again only when
a file of the log changes.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt

from mifsim.cache import atomic_write, cache_dir, digest
from mifsim.data.base import ArrayPool, SubsetPool
from mifsim.data.image_files import decode
from mifsim.data.log_rows import BATCH_ROWS, Columns, Row, log_rows, stamps
from mifsim.data.prepared import Raw, prepare
from mifsim.data.preprocessing import Losses, Preprocessed, Preprocessing
from mifsim.errors import DataError

logger = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT = 1  # version of the index in the cache folder; part of its name


class BadRow(NamedTuple):
    """An unusable row of a log.

    Attributes
    ----------
    file, row, client
        See `mifsim.data.log_rows.Row`.
    problem : str
        The reason why the row is unusable.
    """

    file: str
    row: int | None
    client: str | None
    problem: str

    def __str__(self) -> str:
        file = self.file if self.file.isprintable() else repr(self.file)  # it may be printed on a terminal
        return f"{file}: {self.problem}" if self.row is None else f"{file}, row {self.row:,}: {self.problem}"


@dataclass(frozen=True)
class QueryLog:
    """The usable queries of a log.

    Attributes
    ----------
    path : Path
        The log; see `mifsim.data.log_rows.log_rows`.
    columns : Columns
        Column names in Parquet files.
    rows : int
        Number of rows, including bad ones.
    clients : tuple of str
        Ids of the clients with at least one usable image, in the order of a digest of the ids. The first n of them are
        therefore a sample that depends neither on their times nor on their number of queries.
    offsets : ndarray of int64, shape (clients + 1,)
        Position in `order` at which the images of each client begin.
    order : ndarray of int64, shape (images,)
        Positions of the images among the usable rows, by client and in order of time (ties in the order of the rows).
    bad : tuple of BadRow
        The unusable rows.
    bad_at : ndarray of int64, shape (bad,)
        Positions of the bad rows among all rows.
    content : str
        A digest of the usable rows: equal digests mean equal queries.
    """

    path: Path
    columns: Columns
    rows: int
    clients: tuple[str, ...] = field(repr=False)
    offsets: npt.NDArray[np.int64] = field(repr=False)
    order: npt.NDArray[np.int64] = field(repr=False)
    bad: tuple[BadRow, ...] = field(repr=False)
    bad_at: npt.NDArray[np.int64] = field(repr=False)
    content: str

    def __len__(self) -> int:
        return len(self.clients)

    @property
    def mean_images(self) -> float:
        """Mean number of images per client."""
        return len(self.order) / len(self.clients)

    def pools(self, preprocessing: Preprocessing) -> Sessions:
        """Return the images of each client, converted to one shape.

        Parameters
        ----------
        preprocessing : Preprocessing
            See `mifsim.data.DataConfig.preprocessing`.

        Returns
        -------
        Sessions
            One pool per client, in the order of `clients`.

        Raises
        ------
        DataError
            If the log was changed after it was opened.
        """
        key = digest(self.content, preprocessing.to_dict())
        labels = np.full(len(self.order), -1)  # a log has no labels
        losses = Losses()

        def read() -> Raw:
            return Raw(labels, preprocessing.shape, self._images(preprocessing, losses), facts=losses.to_dict)

        prepared = prepare("log", key, read)
        return Sessions(prepared.pool, self.order, self.offsets, prepared.facts)

    def _images(self, preprocessing: Preprocessing, losses: Losses) -> Iterator[npt.NDArray[np.uint8]]:
        bad = set(self.bad_at.tolist())
        sha = hashlib.sha256()
        rows = (row for number, row in enumerate(log_rows(self.path, self.columns)) if number not in bad)

        def shaped(row: Row) -> Preprocessed | None:
            try:
                return preprocessing.prepare(row.image)
            except ValueError:
                return None

        for row, image in _in_threads(shaped, rows):
            _update_digest(row, sha)
            if image is None:
                break
            losses.add(image)
            yield image.pixels
        if sha.hexdigest()[:16] != self.content:  # the images must not be cached under the digest of the old content
            raise DataError(f"log {self.path}: was changed while it was read; start again")


@dataclass(frozen=True)
class Sessions(Sequence[SubsetPool]):
    """The images of each client of a log, in order of time: a sequence of pools, one per client.

    Attributes
    ----------
    pool : ArrayPool
        The images of all clients.
    order, offsets : ndarray of int64
        See `QueryLog`.
    losses : mapping
        What preprocessing lost; see `mifsim.data.preprocessing.Losses.to_dict`.
    """

    pool: ArrayPool
    order: npt.NDArray[np.int64] = field(repr=False)
    offsets: npt.NDArray[np.int64] = field(repr=False)
    losses: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, client: int) -> SubsetPool: ...
    @overload
    def __getitem__(self, client: slice) -> list[SubsetPool]: ...
    def __getitem__(self, client: int | slice) -> SubsetPool | list[SubsetPool]:
        if isinstance(client, slice):
            return [self[number] for number in range(*client.indices(len(self)))]
        number = range(len(self))[client]
        return SubsetPool(self.pool, self.order[self.offsets[number] : self.offsets[number + 1]])


def open_log(path: Path, columns: Columns = Columns()) -> QueryLog:  # noqa: B008 - immutable
    """Find the usable queries of a log; see `log_rows` for the formats.

    Raises
    ------
    DataError
        If the log does not exist or has no usable row.
    """
    return _opened(path, columns, digest(str(path), list(columns), list(stamps(path, columns))))


@lru_cache(maxsize=8)
def _opened(path: Path, columns: Columns, key: str) -> QueryLog:
    file = cache_dir() / "logs" / f"{FORMAT}-{key}.npz"
    found = _load(file, path, columns)
    if found is None:
        logger.info("reading the log %s (once; the result is cached)", path)
        found = _read(path, columns)
        _save(file, found)
    return found


def _read(path: Path, columns: Columns) -> QueryLog:
    sha = hashlib.sha256()
    codes: dict[str, int] = {}
    of_row, bad_at, bad = array("q"), array("q"), []
    times: list[int | float] = []
    number = -1
    for number, (row, problem) in enumerate(_in_threads(_problem, log_rows(path, columns))):
        if problem is not None:
            bad.append(BadRow(row.file, row.row, row.client, problem))
            bad_at.append(number)
            continue
        assert row.client is not None
        of_row.append(codes.setdefault(row.client, len(codes)))
        times.append(row.time)
        _update_digest(row, sha)
    if not codes:
        why = f"none of its {number + 1:,} rows can be used, the first: {bad[0]}" if bad else "it has no rows"
        raise DataError(f"log {path}: {why}")
    names = sorted(codes, key=lambda name: hashlib.sha256(name.encode()).digest())
    rank = np.empty(len(names), np.int64)
    rank[[codes[name] for name in names]] = np.arange(len(names))
    client = rank[np.array(of_row)]
    return QueryLog(
        path=path,
        columns=columns,
        rows=number + 1,
        clients=tuple(names),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(client, minlength=len(names)))]).astype(np.int64),
        order=np.lexsort((np.array(times), client)).astype(np.int64),
        bad=tuple(bad),
        bad_at=np.array(bad_at, np.int64),
        content=sha.hexdigest()[:16],
    )


def _in_threads(work: Callable[[Row], T], rows: Iterator[Row]) -> Iterator[tuple[Row, T]]:
    """Yield each row with the result of `work`, in order; threads are used, as OpenCV releases the GIL."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(islice(rows, BATCH_ROWS)):
            yield from zip(some, pool.map(work, some), strict=True)


def _update_digest(row: Row, sha: hashlib._Hash) -> None:
    sha.update(repr((row.client, row.time, len(row.image))).encode())
    sha.update(row.image)


def _problem(row: Row) -> str | None:
    """Return the reason why a row is unusable, or None; the image is decoded to find out."""
    if row.problem is not None:
        return row.problem
    try:
        decode(row.image, "grey")
    except ValueError as error:
        return str(error)
    return None


def _save(file: Path, log: QueryLog) -> None:
    facts = {"rows": log.rows, "clients": log.clients, "bad": log.bad, "content": log.content}
    try:
        with atomic_write(file) as temporary, temporary.open("wb") as out:
            text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
            np.savez(out, facts=text, offsets=log.offsets, order=log.order, bad_at=log.bad_at)
    except OSError as error:
        raise DataError(
            f"cannot write to the cache folder {file.parent}: {error.strerror or error}; "
            "set MIFSIM_CACHE_DIR to a writable folder"
        ) from error


def _load(file: Path, path: Path, columns: Columns) -> QueryLog | None:
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            facts = json.loads(arrays["facts"].tobytes())
            return QueryLog(
                path=path,
                columns=columns,
                rows=facts["rows"],
                clients=tuple(facts["clients"]),
                offsets=arrays["offsets"],
                order=arrays["order"],
                bad=tuple(BadRow(*row) for row in facts["bad"]),
                bad_at=arrays["bad_at"],
                content=facts["content"],
            )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
