"""The thread that writes the traffic log, so that no request waits for a disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mifsim.guard.metrics import Metrics
from mifsim.guard.traffic.journal import Journal
from mifsim.guard.traffic.rows import Row, journal_schema, to_message, warm_up
from mifsim.guard.traffic.segments import complete, expire

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
"""Longest time for which rows are collected before they are written."""

FLUSH_ROWS = 512
"""Number of waiting rows at which they are written earlier. A process that is killed loses those that wait: at most the
rows of `FLUSH_SECONDS` and of the time that writing takes."""

RETRY_SECONDS = 1.0
"""Time between two attempts to write rows that could not be written."""

MOST_BYTES = 64 * 2**20
"""Memory for rows that are not written yet."""

_EXPIRY_SECONDS = 3600.0
_IDLE_SECONDS = 600.0


@dataclass(frozen=True)
class Options:
    """What can change while the writer runs.

    Attributes
    ----------
    images : {"all", "none"}
    rotate, retention : float
        Seconds; may be infinite.
    rotate_bytes : int
    required : bool
    """

    images: Literal["all", "none"]
    rotate: float
    rotate_bytes: int
    retention: float
    required: bool


class Writer:
    """Writes rows to journals, and makes segments of them.

    Parameters
    ----------
    folder : Path
    options : Options
    metrics : Metrics

    Attributes
    ----------
    failure : str
        Why rows cannot be written; empty if they can.
    """

    def __init__(self, folder: Path, options: Options, metrics: Metrics) -> None:
        self.failure = ""
        self._folder, self._options, self._metrics = folder, options, metrics
        self._next: Options | None = None
        self._rows: deque[tuple[Row, int]] = deque()
        self._added = self._taken = 0  # bytes; each is written by one thread only
        self._held: tuple[list[pa.Buffer], int] | None = None
        self._schema = journal_schema(options.images)
        self._journal: Journal | None = None
        self._opened = self._expired = 0.0
        self._unfinished: list[Journal] = []
        self._wake, self._enough, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._awake = self._stopped = False  # the same, and faster to ask
        self._thread = threading.Thread(target=self._run, name="traffic-log", daemon=True)
        self._segments = ThreadPoolExecutor(1, "traffic-segments")

    @property
    def full(self) -> bool:
        """Whether no more rows can wait to be written."""
        return self._added - self._taken > MOST_BYTES

    def start(self) -> None:
        """Create the first journal, and start the thread.

        Raises
        ------
        OSError
            If the journal cannot be written.
        """
        warm_up()
        try:
            self._open_journal()
        except OSError as error:
            if self._options.required:
                raise
            self._failed(error)
        self._segments.submit(self._expire)
        self._thread.start()

    def add(self, row: Row, size: int) -> None:
        """Hand over a row, which takes some bytes of memory; called by one thread."""
        if self._stopped or (self.full and not self._options.required):
            self._metrics.log_dropped.inc()
            return
        self._added += size
        self._rows.append((row, size))
        if not self._awake:
            self._awake = True
            self._wake.set()
        if len(self._rows) == FLUSH_ROWS:
            self._enough.set()

    def use(self, options: Options) -> None:
        """Close the segment, and continue with other options."""
        self._next = options
        self._wake.set()

    def stop(self) -> None:
        """Write what was handed over, and close all segments."""
        self._stopped = True
        for event in (self._stop, self._wake, self._enough):
            event.set()
        if self._thread.is_alive():
            self._thread.join()
        self._close_journal()
        self._segments.shutdown()
        for journal in self._unfinished:
            journal.close()
        lost = len(self._rows) + (self._held[1] if self._held else 0)
        if lost:
            self._metrics.log_dropped.inc(lost)
            logger.error("traffic log: %d rows are lost: %s", lost, self.failure)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._held is not None:
                self._stop.wait(RETRY_SECONDS)
            else:
                self._wake.wait(self._seconds_to_rotation())
                self._enough.wait(FLUSH_SECONDS)
            self._wake.clear()
            self._enough.clear()
            self._awake = False
            self._step()
        while self._rows or self._held is not None:
            self._step()
            if self._held is not None:
                break

    def _step(self) -> None:
        following = self._next
        self._flush()
        if following is not None or self._seconds_to_rotation() <= 0 or self._large():
            self._close_journal()
        if following is not None:
            self._options, self._schema = following, journal_schema(following.images)
            if self._next is following:
                self._next = None
        if time.monotonic() - self._expired > _EXPIRY_SECONDS:
            self._segments.submit(self._expire)

    def _flush(self) -> None:
        """Write the rows that wait; those that are added meanwhile are collected for the next time."""
        if self._held is None:
            self._held = self._collected()
        if self._held is None:
            return
        messages, rows = self._held
        try:
            journal = self._journal or self._open_journal()
            journal.append(messages, rows)
        except OSError as error:
            if isinstance(error, FileNotFoundError):  # somebody has deleted the journal
                self._journal = None
            self._failed(error)
            return
        self._held = None
        self._metrics.log_rows.inc(rows)
        if self.failure:
            logger.warning("traffic log: can be written again")
            self.failure = ""
            self._wake.set()  # others may wait

    def _collected(self) -> tuple[list[pa.Buffer], int] | None:
        """Take the rows that wait; return them as messages, with their number, or None if there are none."""
        taken = [self._rows.popleft() for _ in range(len(self._rows))]
        if not taken:
            return None
        self._taken += sum([size for _, size in taken])
        try:
            return to_message([row for row, _ in taken], self._schema, self._options.images == "all"), len(taken)
        except Exception:  # a fault in one row must not end the log
            logger.exception("traffic log: rows cannot be stored")
            self._metrics.log_dropped.inc(len(taken))
            return None

    def _open_journal(self) -> Journal:
        self._journal = Journal.create(self._folder, self._schema)
        self._opened = time.monotonic()
        return self._journal

    def _failed(self, error: OSError) -> None:
        if not self.failure:
            logger.error("traffic log: cannot be written: %s", error)
        self.failure = str(error.strerror or error)

    def _large(self) -> bool:
        return self._journal is not None and self._journal.size >= self._options.rotate_bytes

    def _seconds_to_rotation(self) -> float:
        """Return the seconds until a journal with rows is due; some time if there is none."""
        if self._journal is None or self._journal.rows == 0:
            return _IDLE_SECONDS
        return min(_IDLE_SECONDS, max(0.0, self._opened + self._options.rotate - time.monotonic()))

    def _close_journal(self) -> None:
        """Have a segment made of the journal; the next rows get a new one."""
        journal, self._journal = self._journal, None
        if journal is not None:
            self._segments.submit(self._complete, journal)

    def _complete(self, journal: Journal) -> None:
        unfinished, self._unfinished = [*self._unfinished, journal], []
        for item in unfinished:
            try:
                complete(item)
            except Exception as error:
                logger.error("traffic log: %s stays a journal until the next rotation: %s", item.path, error)
                self._unfinished.append(item)
        self._expire()

    def _expire(self) -> None:
        self._expired = time.monotonic()
        try:
            expire(self._folder, self._options.retention)
        except OSError as error:
            logger.error("traffic log: old segments cannot be deleted: %s", error)
