"""Segments: the Parquet files of the traffic log, each made of a journal, hidden until it is complete."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mifsim.guard.traffic.journal import MODE, PREFIX, SUFFIX, Journal
from mifsim.guard.traffic.rows import JOURNAL_KEY, JOURNAL_VERSION, journal_schema, to_table

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

GROUP_BYTES = 8 * 2**20
"""Size of a row group of a segment, in bytes of the journal."""

_SEGMENT = re.compile(r"guard-\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\.parquet")
_PLAIN = ("image", "request_id", "time", "query")
"""Columns that hardly repeat a value."""

_UNCOMPRESSED = ("image", "request_id")
"""Columns that cost more time than they save space: image files are compressed already, and ids are random."""


def complete(journal: Journal) -> int:
    """Make a segment of a journal, and delete the journal; return the number of rows.

    A segment has the journal's name. If it exists, a process ended between the two steps, and only the journal is
    deleted, so that no row is in the log twice.

    Raises
    ------
    OSError
        If the segment cannot be written; the journal then stays.
    ValueError
        If the file is not a journal.
    """
    folder = journal.path.parent
    segment = folder / f"{journal.name}.parquet"
    rows = 0
    if not segment.exists():
        part = folder / f".{journal.name}.parquet.part"
        try:
            rows = _write(journal, part)
            if rows < journal.rows:
                raise OSError(f"{journal.path}: only {rows} of {journal.rows} rows can be read")
            if rows:
                newest = journal.path.stat().st_mtime  # `expire` needs the age of the rows, not of the segment
                os.utime(part, (newest, newest))
                part.replace(segment)
        finally:
            part.unlink(missing_ok=True)
    journal.remove()
    return rows


def _write(journal: Journal, part: Path) -> int:
    """Write a journal's rows to a Parquet file; return their number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mifsim.tables.traffic_schema import IMAGES_KEY, traffic_schema

    stored = journal.schema().metadata or {}
    if stored.get(JOURNAL_KEY) != JOURNAL_VERSION:
        raise ValueError(f"{journal.path}: a journal of another version of mifsim")
    schema, rows = traffic_schema(stored[IMAGES_KEY].decode()), 0
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE))
    repeating = [name for name in schema.names if name not in _PLAIN]
    compression = {name: "none" if name in _UNCOMPRESSED else "zstd" for name in schema.names}
    try:
        with pq.ParquetWriter(
            part, schema, use_dictionary=repeating, write_statistics=["time"], compression=compression
        ) as writer:
            for batches in _groups(journal.batches()):
                table = to_table(batches, schema)
                rows += table.num_rows
                writer.write_table(table, row_group_size=max(1, table.num_rows))
    except pa.ArrowException as error:
        raise OSError(f"{part}: {error}") from error
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    return rows


def _groups(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        group.append(batch)
        size += batch.nbytes
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def recover(folder: Path) -> int:
    """Make segments of the journals of processes that have ended; return the number of rows.

    Raises
    ------
    OSError
        If a segment cannot be written.
    """
    rows = 0
    for path in sorted(folder.glob(f"{PREFIX}*{SUFFIX}")):
        journal = Journal.take_over(path)
        if journal is None:
            continue
        try:
            rows += complete(journal)
        except ValueError as error:
            if journal.size < len(journal_schema("none").serialize()):  # its process ended while it was created
                journal.remove()
                continue
            logger.warning("traffic log: %s; it is left as it is", error)
            journal.close()
        except OSError:
            journal.close()
            raise
    return rows


def expire(folder: Path, retention: float) -> int:
    """Delete segments whose newest row is older than some seconds; return their number."""
    if math.isinf(retention):
        return 0
    before, deleted = time.time() - retention, 0
    for path in folder.iterdir():
        if not _SEGMENT.fullmatch(path.name):
            continue
        with contextlib.suppress(FileNotFoundError):  # another worker has deleted it
            if path.stat().st_mtime < before:
                path.unlink()
                deleted += 1
    if deleted:
        logger.info("traffic log: deleted %d segments that are older than log.retention", deleted)
    return deleted
