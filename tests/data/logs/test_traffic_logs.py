"""The traffic log of a guard is read without a word of configuration; npy files in any log keep their values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mifsim.clients.users.log import Log
from mifsim.data.logs import LogSessions, QueryLog, SessionPolicy, arrange, open_log
from mifsim.data.npy import read_npy, write_npy
from mifsim.data.preprocessing import Preprocessing
from mifsim.errors import DataError
from mifsim.run.log_notes import facts_of
from mifsim.tables.traffic_schema import IMAGES_KEY, VERSION_KEY, traffic_schema

START = dt.datetime(2026, 10, 1, 10, tzinfo=dt.UTC)
SHAPE = (8, 8)
Query = tuple[str, int, int, bool]
"""Session, number within it, second, and whether it was answered."""

WHOLE: list[Query] = [
    ("a-1", 1, 0, True), ("a-1", 2, 1, False), ("a-1", 2, 2, True), ("a-1", 3, 9000, True),
    ("b-1", 1, 1, True), ("b-2", 1, 5, True), ("b-2", 2, 6, True), ("c-1", 1, 3, False),
]  # fmt: skip


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).random(SHAPE, dtype=np.float32)


def write(path: Path, queries: list[Query], first: int = 0, images: str = "all", **metadata: str) -> None:
    """Write a file of a guard's log; the image of each query is that of its number in the list, plus `first`."""
    schema = traffic_schema(images)
    rows = [
        {
            "client": session[0], "session": session, "query": query, "time": START + dt.timedelta(seconds=second),
            "image": write_npy(picture(first + number)), "content_type": "application/x-npy", "shape": "8x8",
            "verdict": "safe", "count": 0.0, "limit": 4.0, "answered": answered, "request_id": f"{number}",
            "filter": "0" * 16, "policy": "period 1d",
        }
        for number, (session, query, second, answered) in enumerate(queries)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema)
    for key, value in metadata.items():
        table = table.replace_schema_metadata({**table.schema.metadata, key.encode(): value.encode()})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)


def sessions(path: Path, **options: Any) -> LogSessions:
    found = Log(path=str(path), **options).log()
    assert found is not None
    return found


def pictures_of(found: LogSessions) -> list[list[bytes]]:
    """Return the pixels of each session."""
    pools = found.pools(Preprocessing(SHAPE))
    return [
        [pool.image(index).tobytes() for index in range(start, end)]
        for pool in pools
        for start, end in pairwise((*pool.starts, len(pool)))
    ]


def expected(*groups: list[int]) -> list[list[bytes]]:
    return sorted([picture(number).tobytes() for number in group] for group in groups)


def test_sessions_are_those_of_the_guard_without_what_was_undone(tmp_path: Path) -> None:
    write(tmp_path / "log" / "1.parquet", WHOLE[:3])
    write(tmp_path / "log" / "2.parquet", WHOLE[3:], first=3)
    (tmp_path / "log" / ".3.parquet.part").write_bytes(b"not complete")
    (tmp_path / "log" / ".guard-x.journal").write_bytes(b"")
    found = sessions(tmp_path / "log")
    assert found.clients == tuple(client for client in found.log.index.clients)
    assert set(found.clients) == {"a", "b"}
    assert sorted(pictures_of(found)) == expected([0, 2, 3], [4], [5, 6])
    facts = facts_of(found, None)
    assert (facts["undone_queries"], facts["incomplete_sessions"], facts["bad_rows"]) == (2, 0, 0)
    assert "the session column states the sessions" in facts["policy"]
    text = " ".join(facts["notes"])
    assert "sessions that the guard blocked end where it stopped them, and attackers are among the users" in text
    assert "2 queries were undone" in text


def test_a_gap_divides_it_if_the_study_says_so(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", WHOLE)
    found = sessions(tmp_path, session_gap="1 hour")
    assert sorted(pictures_of(found)) == expected([0, 2], [3], [4, 5, 6])


def test_a_log_without_a_complete_session_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", [("a-1", 2, 0, True)])
    with pytest.raises(DataError, match=r"each of its 1 sessions has missing rows \(accepted"):
        sessions(tmp_path)


@pytest.mark.parametrize("lost", [{0}, {2}, {5}, {0, 2}])
def test_sessions_of_which_rows_are_missing_are_left_out(lost: set[int], tmp_path: Path) -> None:
    """Rows at the start or within a session are missing, because they were dropped, lost or deleted."""
    write(tmp_path / "1.parquet", WHOLE)
    whole = pq.read_table(tmp_path / "1.parquet")
    pq.write_table(whole.take([i for i in range(len(WHOLE)) if i not in lost]), tmp_path / "1.parquet")
    groups = [group for group in ([0, 2, 3], [4], [5, 6]) if not lost & set(group)]
    found = sessions(tmp_path)
    assert sorted(pictures_of(found)) == expected(*groups)
    assert found.incomplete == 3 - len(groups)
    assert "unusable or missing rows" in " ".join(facts_of(found, None)["notes"])
    kept = sessions(tmp_path, incomplete_sessions="keep")
    rest = [[i for i in group if i not in lost] for group in ([0, 2, 3], [4], [5, 6])]
    assert sorted(pictures_of(kept)) == expected(*rest)


def test_a_file_that_is_there_twice_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", WHOLE)
    write(tmp_path / "2.parquet", WHOLE)
    found = sessions(tmp_path)
    assert sorted(pictures_of(found)) == expected([0, 2, 3], [4], [5, 6])
    assert found.incomplete == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path: write(path / "2.parquet", WHOLE, images="none"),
            r"2\.parquet: the guard has left out the images",
        ),
        (
            lambda path: write(path / "2.parquet", WHOLE, mifsim_traffic_log="2"),
            r"2\.parquet: a guard's traffic log of version '2': not supported by this mifsim \(accepted: 1\)",
        ),
        (
            lambda path: pq.write_table(pa.table({"client": ["a"], "time": [1], "image": [b""]}), path / "2.parquet"),
            r"2\.parquet: not a file of a guard's traffic log, as others in the folder are",
        ),
        (lambda path: (path / "2.parquet").write_bytes(b"torn"), r"2\.parquet: not a Parquet file"),
        (
            lambda path: pq.write_table(pq.read_table(path / "1.parquet").drop(["answered"]), path / "2.parquet"),
            r"2\.parquet: answered_column = 'answered': must name exactly one of the columns",
        ),
    ],
)
def test_other_logs_are_refused(change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", WHOLE)
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        sessions(tmp_path)


def test_a_log_without_a_complete_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".guard-20261001T100000.000000Z-01234567.journal").write_bytes(b"x")
    with pytest.raises(DataError, match="without a complete file yet; send SIGHUP to the guard"):
        sessions(tmp_path)


def test_the_keys_of_the_metadata_are_fixed() -> None:
    """Logs that exist must stay readable: a change needs another version."""
    assert traffic_schema("all").metadata == {b"mifsim_traffic_log": b"1", b"mifsim_traffic_images": b"all"}
    assert (VERSION_KEY, IMAGES_KEY) == (b"mifsim_traffic_log", b"mifsim_traffic_images")


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    buffer = BytesIO()
    np.lib.format.write_array(buffer, array, version=version, allow_pickle=False)
    return buffer.getvalue()


ARRAYS = {
    "float32": picture(1),
    "one channel": picture(2)[..., None],
    "uint8": np.arange(64, dtype=np.uint8).reshape(SHAPE),
    "float64": picture(3).astype(np.float64) ** 1.1,
    "float16": picture(4).astype(np.float16),
    "big-endian": picture(5).astype(">f4"),
    "Fortran order": np.asfortranarray(picture(6)),
}


def read(folder: Path, files: list[bytes]) -> QueryLog:
    """Return a log of another kind than a guard's, with files as images."""
    times = [START + dt.timedelta(seconds=number) for number in range(len(files))]
    pq.write_table(pa.table({"client": ["a"] * len(files), "time": times, "image": files}), folder / "log.parquet")
    return open_log(folder / "log.parquet")


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_arrays_keep_their_values(name: str, version: tuple[int, int], tmp_path: Path) -> None:
    array = ARRAYS[name]
    found = read(tmp_path, [saved(array, version)])
    values = array / np.float32(255) if array.dtype == np.uint8 else array
    exact = np.ascontiguousarray(values.reshape(SHAPE), dtype=np.float32)
    assert pictures_of(arrange(found, SessionPolicy())) == [[exact.tobytes()]]


@pytest.mark.parametrize("name", ARRAYS)
def test_files_are_those_of_numpy(name: str) -> None:
    array = np.ascontiguousarray(ARRAYS[name])
    assert np.array_equal(np.load(BytesIO(write_npy(array))), array)
    assert np.load(BytesIO(write_npy(array))).dtype == array.dtype
    assert np.array_equal(read_npy(saved(ARRAYS[name])), array)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (saved(picture(0))[:-1], "does not fit"),
        (saved(picture(0)) + b"\0", "does not fit"),
        (saved(picture(0))[:40], "cannot be read"),
        (saved(np.zeros((8, 8), np.int64)), "does not fit"),
        (saved(np.zeros((8, 8), np.uint16)), "dtype '<u2' (accepted: uint8, float16, float32, float64)"),
        (saved(np.zeros((2, 8, 8, 3), np.uint8)), "(accepted: height and width, or height, width and 1 or 3)"),
        (saved(np.full(SHAPE, 1.5)), "values from 1.5 to 1.5 (accepted: 0 to 1)"),
        (saved(np.full(SHAPE, np.nan)), "not finite"),
    ],
    ids=range(8),
)
def test_other_arrays_are_unusable_rows(file: bytes, problem: str, tmp_path: Path) -> None:
    found = read(tmp_path, [saved(picture(0)), file])
    (bad,) = found.bad
    assert problem in bad.problem
    assert bad.row == 1
