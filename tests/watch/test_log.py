"""The log of a guard becomes sessions; what is left out is counted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mifsim.errors import DataError
from mifsim.watch.log import read_log
from mifsim.watch.promise import Promise
from mifsim.watch.sessions import Cut
from tests.watch.logs import (
    BASELINE,
    DIGEST,
    FIRST,
    SCHEMA,
    LoggedSession,
    rows_of,
    traffic,
    write_filter,
    write_log,
)

CUT = Cut(3600.0, 30)


def promise_of(folder: Path, **tables: Any) -> Promise:
    return Promise.read(write_filter(folder, **tables))


def test_sessions_are_those_of_the_log(tmp_path: Path) -> None:
    end = LoggedSession(FIRST + 90_000, "last")
    rows = rows_of([*traffic(40, [3, 17]), end])
    log = read_log(write_log(tmp_path / "log", rows, files=3), DIGEST, promise_of(tmp_path), CUT)
    assert [session.key for session in log.sessions] == [f"s{i}" for i in range(40)]
    assert [i for i, session in enumerate(log.sessions) if CUT.blocked(session)] == [3, 17]
    assert log.sessions[3].start == FIRST + 180
    assert log.sessions[3].blocked == FIRST + 182
    assert (log.sessions[3].blocked_at, log.sessions[3].queries, CUT.nearness(log.sessions[3])) == (3, 3, 10)
    assert (log.sessions[4].blocked, log.sessions[4].queries, CUT.nearness(log.sessions[4])) == (math.inf, 3, 1)
    assert (log.rows, log.undecided, log.without_start, log.incomplete, log.unanswered) == (123, 1, 0, 0, 0)
    assert log.end == FIRST + 90_002
    assert log.coverage.outside == 0
    assert log.coverage.shapes == {"28x28x1": 40}


def test_rows_that_do_not_count_are_left_out_and_counted(tmp_path: Path) -> None:
    """Rows of other configurations, queries without an answer, and sessions whose beginning is missing."""
    rows = rows_of(
        [
            *traffic(10, []),
            LoggedSession(FIRST, "other", filter="0123456789abcdef"),
            LoggedSession(FIRST + 5, "tail", counts=(3, 10), first_query=7),
            LoggedSession(FIRST + 90_000, "last"),
        ]
    )
    # The first query of s2 had no answer and was undone, so the next one has the same number.
    again = next(row for row in rows if row["session"] == "s2" and row["query"] == 1)
    rows.append({**again, "time": again["time"] - 2_000_000, "answered": False, "count": 9.0})
    # A query of s3 is missing.
    rows.remove(next(row for row in rows if row["session"] == "s3" and row["query"] == 2))
    log = read_log(write_log(tmp_path / "log", rows), DIGEST, promise_of(tmp_path), CUT)
    assert len(log.sessions) == 10
    assert log.other_filters == {"0123456789abcdef": 3}
    assert (log.unanswered, log.without_start, log.incomplete) == (1, 1, 1)
    undone = next(session for session in log.sessions if session.key == "s2")
    assert (undone.start, undone.nearness) == (again["time"] / 1e6, 1)


def test_a_block_counts_within_the_cut_only(tmp_path: Path) -> None:
    """Counts after the cut do not count either."""
    late = LoggedSession(FIRST, "late", counts=(0, 2, 10), step=2000.0)
    long = LoggedSession(FIRST + 1, "long", counts=[*[1] * 31, 10])
    log = read_log(
        write_log(tmp_path / "log", rows_of([late, long, LoggedSession(FIRST + 90_000, "end")])),
        DIGEST,
        promise_of(tmp_path),
        CUT,
    )
    assert [CUT.blocked(session) for session in log.sessions] == [False, False]
    assert [CUT.nearness(session) for session in log.sessions] == [2, 1]
    assert [session.blocked_at for session in log.sessions] == [3, 32]
    assert log.outside == [False, True]


def test_coverage_counts_sessions_with_other_lengths_shapes_and_formats(tmp_path: Path) -> None:
    sessions = [
        *traffic(6, []),
        LoggedSession(FIRST + 7, "long", counts=[0] * 31),
        LoggedSession(FIRST + 8, "large", shape="64x48x3"),
        LoggedSession(FIRST + 9, "photo", content_type="image/jpeg", shape="64x48x3"),
        LoggedSession(FIRST + 90_000, "end", shape="1x1x1"),
    ]
    folder = write_log(tmp_path / "log", rows_of(sessions))
    log = read_log(folder, DIGEST, promise_of(tmp_path), CUT)
    coverage = log.coverage
    assert (coverage.sessions, coverage.longer, coverage.other_shape, coverage.other_format) == (9, 1, 2, 1)
    assert coverage.outside == sum(log.outside) == 3
    assert coverage.shapes == {"28x28x1": 7, "64x48x3": 2}
    assert coverage.formats == {"image/png": 8, "image/jpeg": 1}
    # A calibration from a log may have had such images.
    log = read_log(folder, DIGEST, promise_of(tmp_path, logs=[{"workload": "x"}]), CUT)
    assert (log.coverage.longer, log.coverage.outside) == (1, 1)


def test_the_files_and_the_order_of_rows_do_not_matter(tmp_path: Path) -> None:
    rows = rows_of([*traffic(50, [4, 5, 40]), LoggedSession(FIRST + 90_000, "end")])
    promise = promise_of(tmp_path)
    whole = read_log(write_log(tmp_path / "one", rows, files=1), DIGEST, promise, CUT)
    folder = tmp_path / "many"
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    for number in range(4):
        part = pa.Table.from_pylist(shuffled[number::4], SCHEMA)
        part = part.set_column(part.schema.get_field_index("filter"), "filter", part["filter"].dictionary_encode())
        (folder / f"day={number}").mkdir(parents=True)
        pq.write_table(part, folder / f"day={number}" / "0.parquet")
    assert read_log(folder, DIGEST, promise, CUT) == whole
    rows_twice = write_log(tmp_path / "twice", [*rows, *rows[:30]])
    assert read_log(rows_twice, DIGEST, promise, CUT).sessions == whole.sessions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["verdict"]), "0.parquet: has no column 'verdict'"),
        (
            lambda table: table.set_column(2, "query", table["query"].cast(pa.string())),
            "column 'query' is string .expected int64",
        ),
        (
            lambda table: table.set_column(10, "answered", pa.array([None, True, True], pa.bool_())),
            "column 'answered' has empty cells",
        ),
        (lambda table: table.slice(0, 0), "the log has no rows"),
    ],
)
def test_a_log_of_another_form_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    table = pa.Table.from_pylist(LoggedSession(FIRST, "a").rows(), SCHEMA)
    pq.write_table(change(table), tmp_path / "log" / "0.parquet")
    with pytest.raises(DataError, match=message):
        read_log(tmp_path / "log", DIGEST, promise_of(tmp_path), CUT)


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    promise = promise_of(tmp_path)
    with pytest.raises(DataError, match="nowhere: no such log"):
        read_log(tmp_path / "nowhere", DIGEST, promise, CUT)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".0.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match="contains no complete Parquet file"):
        read_log(tmp_path / "empty", DIGEST, promise, CUT)
    (tmp_path / "empty" / "1.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1.parquet: cannot be read as a Parquet file"):
        read_log(tmp_path / "empty", DIGEST, promise, CUT)


def test_the_promise_is_that_of_the_file(tmp_path: Path) -> None:
    promise = promise_of(tmp_path, near_misses=BASELINE)
    assert promise.limit == 0.01
    assert (promise.longest, promise.shape, promise.transport) == (30, (28, 28), "uint8")
    assert promise.baseline is not None
    assert promise.baseline.histograms[1][:2] == (390, 10)
    assert promise_of(tmp_path).baseline is None
    assert replace(promise, limits={}).limit is None
