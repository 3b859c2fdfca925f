"""The journal of the traffic log: what is recovered after a crash, and files that are complete or too old."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mifsim.guard.traffic.journal import Journal
from mifsim.guard.traffic.rows import KINDS, PACKED, PACKED_DTYPE, Row, journal_schema, to_message
from mifsim.guard.traffic.segments import complete, expire, recover
from tests.guard.traffic_requests import logged

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs the locks and signals of POSIX")


def row(number: int) -> Row:
    """Return a row whose image states its number."""
    packed = PACKED.pack(b"c" * 16, 7, number, number, 0.5, 4.0, 0, 0.0, 2, KINDS.index("image/png"), 2, 2, 1, b"d" * 8)
    return Row(packed, b"image %d" % number * (1 + number % 3), None, f"r{number}", "policy")


def written(folder: Path, batches: list[int]) -> Journal:
    """Return a journal with batches of some numbers of rows."""
    schema = journal_schema("all")
    journal = Journal.create(folder, schema)
    number = 0
    for rows in batches:
        journal.append(to_message([row(number + i) for i in range(rows)], schema, True), rows)
        number += rows
    return journal


def test_the_packed_layout_is_that_of_the_array_type() -> None:
    assert PACKED.size == PACKED_DTYPE.itemsize
    values = (b"c" * 16, 1, 2, 3, 0.5, float("inf"), -4, 0.25, 3, 2, 28, 27, 3, b"d" * 8)
    found = np.frombuffer(PACKED.pack(*values), PACKED_DTYPE)[0]
    flat = [*list(found)[:10], *found["shape"].tolist(), found["config"]]
    assert [value.tobytes() if isinstance(value, np.void) else value for value in flat] == list(values)


@posix
def test_of_a_torn_journal_all_complete_batches_are_recovered_once(tmp_path: Path) -> None:
    """A journal that is cut at any byte gives the rows of the batches before the cut, in a file of its own."""
    batches = [3, 1, 4]
    whole = written(tmp_path, batches)
    ends = []
    size = len(journal_schema("all").serialize())
    for rows, start in zip(batches, (0, 3, 4), strict=True):
        (message,) = to_message([row(start + i) for i in range(rows)], journal_schema("all"), True)
        size += len(message)
        ends.append((size, start + rows))
    content = whole.path.read_bytes()
    assert len(content) == whole.size == size
    whole.remove()
    for cut in (*range(0, size, 61), *(end + shift for end, _ in ends for shift in (-1, 0)), size):
        (tmp_path / whole.path.name).write_bytes(content[:cut])
        expected = max([rows for end, rows in ends if end <= cut], default=0)
        assert recover(tmp_path) == expected
        assert recover(tmp_path) == 0
        assert [found["query"] for found in logged(tmp_path)] == list(range(expected))
        for path in tmp_path.iterdir():
            assert path.suffix == ".parquet"
            path.unlink()


@posix
def test_a_crash_between_the_two_steps_of_completion_doubles_no_row(tmp_path: Path) -> None:
    journal = written(tmp_path, [5])
    content = journal.path.read_bytes()
    complete(journal)
    (tmp_path / journal.path.name).write_bytes(content)  # as if it had not been deleted
    (tmp_path / f".{journal.name}.parquet.part").write_bytes(b"half of another attempt")
    recover(tmp_path)
    assert [found["query"] for found in logged(tmp_path)] == list(range(5))
    assert not (tmp_path / journal.path.name).exists()


@posix
def test_the_journal_of_a_running_guard_is_left_alone(tmp_path: Path) -> None:
    journal = written(tmp_path, [2])
    assert recover(tmp_path) == 0
    journal.append(to_message([row(2)], journal_schema("all"), True), 1)
    assert complete(journal) == 3


def test_a_journal_of_another_version_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    schema = journal_schema("all")
    other = schema.with_metadata({**schema.metadata, b"mifsim_traffic_journal": b"0"})
    journal = Journal.create(tmp_path, other)
    journal.append(to_message([row(0)], other, True), 1)
    journal.close()
    assert recover(tmp_path) == 0
    assert "another version" in caplog.text
    assert journal.path.exists()


def test_old_files_are_deleted(tmp_path: Path) -> None:
    """Their age is that of their newest row, also if they were completed long after it."""
    for age in (10, 1000, 5000):
        journal = written(tmp_path, [1])
        os.utime(journal.path, (time.time() - age, time.time() - age))
        complete(journal)
    (tmp_path / "notes.parquet").touch()
    os.utime(tmp_path / "notes.parquet", (0, 0))
    assert expire(tmp_path, float("inf")) == 0
    assert expire(tmp_path, 2000) == 1
    assert expire(tmp_path, 100) == 1
    assert len(logged_files(tmp_path)) == 1
    assert (tmp_path / "notes.parquet").exists()


def logged_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("guard-*.parquet"))
