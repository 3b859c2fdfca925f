"""The ledger ``sqlite:PATH``, the default: a file that several processes of one machine can share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar

from mifsim.guard.ledger.base import Entry, Ledger, LedgerError, Superseded

logger = logging.getLogger(__name__)

VERSION = 1
_BUSY_SECONDS = 2.0
_PAUSES = (*(0.0 for _ in range(50)), *(0.001 * 2**power for power in range(11)), None)
"""Seconds between attempts while another process writes. An entry takes some 30 microseconds, but SQLite's own waiting
takes at least a millisecond, in which the event loop would stand still."""

_CHECKPOINT = 1000
"""Entries after which the write-ahead log is copied to the file. That waits for the disk, some 50 ms, so a thread does
it, while entries are written."""
_MOST_PAGES = 16_000
"""Pages of the log (64 MiB) at which an entry waits for the copy: there was no pause in which it was complete."""

# Times are whole microseconds, and configurations and owners are numbers, so that an idle client takes about 80 bytes.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS configs (number INTEGER PRIMARY KEY, digest TEXT UNIQUE NOT NULL, config TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS clients (
    client BLOB PRIMARY KEY, started INTEGER NOT NULL, last INTEGER NOT NULL, queries INTEGER NOT NULL,
    counts TEXT NOT NULL, blocked INTEGER NOT NULL, config INTEGER NOT NULL, owner INTEGER NOT NULL,
    epoch INTEGER NOT NULL
) WITHOUT ROWID;
"""
_INSERT = (
    "INSERT INTO clients (started, last, queries, counts, blocked, config, client, owner, epoch) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_UPDATE = (
    "UPDATE clients SET started = ?, last = ?, queries = ?, counts = ?, blocked = ?, config = ? "
    "WHERE client = ? AND owner = ? AND epoch = ?"
)

_Waiting = tuple[tuple[Any, ...], asyncio.Future[None]]
"""An entry as SQLite stores it, and what its request waits for."""

Method = TypeVar("Method", bound=Callable[..., Any])


def _translated(method: Method) -> Method:
    """Raise errors of SQLite as `LedgerError`, and repeat what meets another process's lock."""

    @wraps(method)
    async def translated(self: SqliteLedger, *arguments: Any) -> Any:
        for pause in _PAUSES:
            try:
                return await method(self, *arguments)
            except (sqlite3.Error, OSError, AttributeError) as error:
                if isinstance(error, AttributeError) and self._database is not None:
                    raise
                locked = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not locked or pause is None:
                    raise LedgerError(f"{self._path}: {error}") from error
            if pause:
                await asyncio.sleep(pause)
            else:
                time.sleep(0)
        raise AssertionError

    return translated  # type: ignore[return-value]


class SqliteLedger(Ledger):
    """A ledger in an SQLite file with a write-ahead log.

    Parameters
    ----------
    path : str
        The file; it is private to its owner (mode 0600), and so are its log and its shared memory.
    synchronous : {"normal", "full"}
        ``"normal"`` survives the end of a process at any time, but not a power failure, which may lose the last
        entries. ``"full"`` waits for the disk at each entry.
    """

    def __init__(self, path: str, synchronous: Literal["normal", "full"] = "normal") -> None:
        self._path, self._synchronous = path, synchronous
        self._owner = secrets.randbits(62)
        self._database: sqlite3.Connection | None = None
        self._writer: sqlite3.Cursor | None = None  # a new one for each transaction takes longer
        self._pending: list[_Waiting] = []
        self._due: asyncio.AbstractEventLoop | None = None  # the loop that will call `_write_at_once`
        self._writing: asyncio.Task[None] | None = None
        self._copying: asyncio.Task[None] | None = None
        self._uncopied = 0
        self._numbers: dict[str, int] = {}
        self._digests: dict[int, str] = {}

    @property
    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            raise sqlite3.ProgrammingError("the ledger is not open")
        return self._database

    @_translated
    async def open(self) -> None:
        """See `Ledger`."""
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._database, self._writer = database, None
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {self._synchronous.upper()}")
        database.executescript(_SCHEMA)
        if (found := await self.meta("version", str(VERSION))) != str(VERSION):
            raise LedgerError(f"{self._path}: version {found}: not supported by this mifsim (accepted: {VERSION})")
        await self.configs()
        database.execute(f"PRAGMA wal_autocheckpoint = {_MOST_PAGES}")
        database.execute("PRAGMA busy_timeout = 0")  # see `_PAUSES`

    async def close(self) -> None:
        """See `Ledger`."""
        self._write_at_once()
        for task in (self._writing, self._copying):
            if task is not None and not task.done():
                await task
        if self._database is not None:
            self._database.close()
            self._database = self._writer = None

    @_translated
    async def take(self, client: bytes) -> Entry | None:
        """See `Ledger`."""
        row = self._open.execute("SELECT * FROM clients WHERE client = ?", (client,)).fetchone()
        if row is None:
            return None
        if row[7] != self._owner:
            row = self._open.execute(
                "UPDATE clients SET owner = ?, epoch = epoch + 1 WHERE client = ? RETURNING *", (self._owner, client)
            ).fetchone()
            if row is None:
                return None
        if row[6] not in self._digests:  # another process has added it
            await self.configs()
        return self._entry(row)

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        # A configuration that another process has added, and this one does not know, has no digest.
        digest = self._digests.get(row[6], "")
        return Entry(bytes(row[0]), row[1] / 1e6, row[2] / 1e6, row[3], row[4], row[5] / 1e6, digest, row[8])

    async def put(self, entry: Entry) -> None:
        """See `Ledger`. The entries of requests at once share a transaction, which costs more than its statements."""
        row = (
            round(entry.started * 1e6), round(entry.last * 1e6), entry.queries, entry.counts,
            round(entry.blocked * 1e6), self._numbers[entry.config], entry.client, self._owner, entry.epoch,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        self._pending.append((row, written))
        if self._due is not loop and (self._writing is None or self._writing.done()):
            self._due = loop
            loop.call_soon(self._write_at_once)  # after the other requests that are ready, which have entries, too
        await written

    def _write_at_once(self) -> None:
        """Write the entries that wait; if this does not succeed, have a task repeat it, which can wait."""
        pending, self._pending, self._due = self._pending, [], None
        if not pending:
            return
        try:
            outcomes = self._transaction([row for row, _ in pending])
        except Exception:  # a transaction that was rolled back, or whose repetition changes nothing
            self._pending = pending + self._pending
            self._writing = asyncio.get_running_loop().create_task(self._write_pending())
        else:
            self._tell(pending, outcomes)

    async def _write_pending(self) -> None:
        """Write the entries that wait, those of one time all or none of them, and tell their requests."""
        while self._pending:
            pending, self._pending = self._pending, []
            outcomes: Sequence[Exception | None]
            try:
                outcomes = await self._written([row for row, _ in pending])
            except Exception as error:
                outcomes = [error] * len(pending)
            self._tell(pending, outcomes)

    def _tell(self, pending: Sequence[_Waiting], outcomes: Sequence[Exception | None]) -> None:
        for (_, written), outcome in zip(pending, outcomes, strict=True):
            if written.done():  # its request was cancelled
                continue
            if outcome is None:
                written.set_result(None)
            else:
                written.set_exception(outcome)
        self._uncopied += len(pending)
        if self._uncopied >= _CHECKPOINT and (self._copying is None or self._copying.done()):
            self._uncopied = 0
            self._copying = asyncio.create_task(asyncio.to_thread(self._copy_log))

    def _copy_log(self) -> None:
        """Copy the write-ahead log to the file as far as possible without making anybody wait."""
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=0)) as database:
                database.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:  # such as a full disk: the log keeps what it has
            logger.warning("%s: the write-ahead log cannot be copied to the file: %s", self._path, error)

    @_translated
    async def _written(self, rows: Sequence[tuple[Any, ...]]) -> Sequence[Superseded | None]:
        """Write entries, except those of clients that this process no longer owns, which are returned as errors."""
        return self._transaction(rows)

    def _transaction(self, rows: Sequence[tuple[Any, ...]]) -> Sequence[Superseded | None]:
        database = self._open
        cursor = self._writer
        if cursor is None:
            cursor = self._writer = database.cursor()
        if len(rows) == 1:
            return [_write(cursor, rows[0])]
        cursor.execute("BEGIN IMMEDIATE")
        try:
            outcomes = [_write(cursor, row) for row in rows]
            cursor.execute("COMMIT")
        finally:
            if database.in_transaction:
                cursor.execute("ROLLBACK")
        return outcomes

    @_translated
    async def meta(self, key: str, value: str) -> str:
        """See `Ledger`."""
        self._open.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING", (key, value))
        found: str = self._open.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0]
        return found

    @_translated
    async def keep(self, key: str, value: str) -> None:
        """See `Ledger`."""
        self._open.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = ?", (key, value, value)
        )

    @_translated
    async def started(self, after: float, until: float) -> list[Entry]:
        """See `Ledger`."""
        times = (round(after * 1e6), round(until * 1e6))
        return [self._entry(row) for row in await asyncio.to_thread(self._rows_started, times)]

    def _rows_started(self, times: tuple[int, int]) -> list[tuple[Any, ...]]:
        # There is no index, which each query would have to update. Another connection does not stop the guard's own.
        with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as reader:
            return reader.execute("SELECT * FROM clients WHERE started > ? AND started <= ?", times).fetchall()

    @_translated
    async def configs(self) -> Mapping[str, Mapping[str, Any]]:
        """See `Ledger`."""
        rows = self._open.execute("SELECT number, digest, config FROM configs").fetchall()
        self._numbers = {digest: number for number, digest, _ in rows}
        self._digests = {number: digest for number, digest, _ in rows}
        return {digest: json.loads(config) for _, digest, config in rows}

    @_translated
    async def add_config(self, digest: str, config: Mapping[str, Any]) -> None:
        """See `Ledger`."""
        self._open.execute(
            "INSERT INTO configs (digest, config) VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, json.dumps(config))
        )
        await self.configs()

    @_translated
    async def probe(self) -> None:
        """See `Ledger`."""
        self._open.execute("INSERT INTO meta VALUES ('probe', '1') ON CONFLICT (key) DO UPDATE SET value = 1 - value")

    @_translated
    async def blocked(self, counts: Callable[[bytes], bool]) -> int:
        """See `Ledger`."""
        rows = self._open.execute("SELECT client FROM clients WHERE blocked > 0")
        return sum(counts(client) for (client,) in rows)

    @_translated
    async def prune(self, before: float) -> int:
        """See `Ledger`."""
        where = (round(before * 1e6),)
        return self._open.execute("DELETE FROM clients WHERE blocked = 0 AND started < ?", where).rowcount


def _write(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> Superseded | None:
    """Write an entry; return an error if the process no longer owns the client."""
    if cursor.execute(_UPDATE, row).rowcount == 1 or (row[-1] == 0 and cursor.execute(_INSERT, row).rowcount == 1):
        return None
    return Superseded("another owner has taken the client")
