"""Sessions of a log: how they are divided, copies and retries, and sessions with unusable rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mifsim.data.logs import LogFormat, LogSessions, SessionPolicy, arrange, open_log
from mifsim.data.preprocessing import Preprocessing
from mifsim.durations import duration, duration_text
from mifsim.errors import DataError
from tests.data.logs.small_logs import picture, png

START = dt.datetime(2026, 10, 1, 10)
BAD = b"no image"


def write(path: Path, rows: Sequence[tuple[Any, ...]], *names: str) -> Path:
    """Write rows of client, minutes after the start, level of the image (or its bytes), and further columns."""
    client, minutes, levels, *more = zip(*rows, strict=True)
    table = {
        "client": list(client),
        "time": [None if minute is None else START + dt.timedelta(minutes=minute) for minute in minutes],
        "image": [level if isinstance(level, bytes) else png(picture(level)) for level in levels],
        **dict(zip(names, map(list, more), strict=True)),
    }
    pq.write_table(pa.table(table), path)
    return path


def found(log: LogSessions) -> dict[str, list[list[int]]]:
    """Return the levels of the images in each session of each client."""
    result = {}
    for client, pool in zip(log.clients, log.pools(Preprocessing((8, 8))), strict=True):
        ends = (*pool.starts[1:], len(pool))
        levels = [round(float(pool.image(index).mean()) * 255) for index in range(len(pool))]
        result[client] = [levels[start:end] for start, end in zip(pool.starts, ends, strict=True)]
    return result


class TestPauses:
    ROWS = (("a", 0, 1), ("a", 30, 2), ("a", 60.5, 3), ("b", 10, 4), ("a", 10_000, 5), ("a", 9_999, 6))

    def test_a_longer_pause_than_the_gap_ends_a_session(self, tmp_path: Path) -> None:
        log = open_log(write(tmp_path / "log.parquet", self.ROWS))
        assert found(arrange(log, SessionPolicy(gap=1800.0))) == {"a": [[1, 2], [3], [6, 5]], "b": [[4]]}
        assert found(arrange(log, SessionPolicy(gap=1830.0))) == {"a": [[1, 2, 3], [6, 5]], "b": [[4]]}
        assert found(arrange(log, SessionPolicy())) == {"a": [[1, 2, 3, 6, 5]], "b": [[4]]}

    def test_the_numbers_describe_the_sessions(self, tmp_path: Path) -> None:
        divided = arrange(open_log(write(tmp_path / "log.parquet", self.ROWS)), SessionPolicy(gap=1800.0))
        assert sorted(divided.lengths.tolist()) == [1, 1, 2, 2]
        assert (divided.found, divided.incomplete, divided.most_sessions) == (4, 0, 3)
        assert divided.longest_pause == pytest.approx((9_999 - 60.5) * 60)
        assert divided.mean_images == 3.0

    def test_the_digest_depends_on_the_policy(self, tmp_path: Path) -> None:
        log = open_log(write(tmp_path / "log.parquet", self.ROWS))
        policies = [SessionPolicy(), SessionPolicy(gap=5.0), SessionPolicy(gap=6.0), SessionPolicy(duplicates="keep")]
        assert len({arrange(log, policy).content for policy in policies}) == 4

    def test_a_folder_of_images_cannot_be_divided(self, tmp_path: Path) -> None:
        (tmp_path / "log" / "a").mkdir(parents=True)
        (tmp_path / "log" / "a" / "1.png").write_bytes(png(picture(3)))
        with pytest.raises(DataError, match=r"session_gap needs times .* a folder of images has none"):
            arrange(open_log(tmp_path / "log"), SessionPolicy(gap=1800.0))


class TestSessionColumn:
    FORM = LogFormat(session="visit")
    POLICY = SessionPolicy(by_column=True)

    def test_sessions_are_those_of_the_column_within_each_client(self, tmp_path: Path) -> None:
        rows = [("a", 5, 2, "x"), ("b", 0, 7, "x"), ("a", 0, 1, "x"), ("a", 9, 3, "y"), ("a", 900, 4, "y")]
        log = arrange(open_log(write(tmp_path / "log.parquet", rows, "visit"), self.FORM), self.POLICY)
        assert found(log) == {"a": [[1, 2], [3, 4]], "b": [[7]]}
        assert log.overlapping == 0

    def test_sessions_come_one_after_the_other_in_order_of_their_first_query(self, tmp_path: Path) -> None:
        rows = [("a", 1, 11, 1), ("a", 0, 1, 2), ("a", 3, 12, 1), ("a", 2, 2, 2), ("a", 4, 21, 3), ("b", 0, 9, 1)]
        log = arrange(open_log(write(tmp_path / "log.parquet", rows, "visit"), self.FORM), self.POLICY)
        assert found(log) == {"a": [[1, 2], [11, 12], [21]], "b": [[9]]}
        assert log.overlapping == 1

    def test_a_row_without_a_session_is_missing_in_one_of_its_client(self, tmp_path: Path) -> None:
        rows = [("a", 0, 1, "x"), ("a", 1, 2, None), ("a", 2, 3, "y"), ("b", 0, 4, "x"), ("c", 0, 5, None)]
        log = open_log(write(tmp_path / "log.parquet", rows, "visit"), self.FORM)
        assert [row.problem for row in log.bad] == ["no session"] * 2
        divided = arrange(log, self.POLICY)
        assert found(divided) == {"a": [[1], [3]], "b": [[4]]}
        assert (divided.found, divided.incomplete, divided.unplaced) == (4, 1, 1)


class TestUnusableRows:
    ROWS = (("a", 0, 1), ("a", 1, BAD), ("a", 2, 2), ("a", 100, 3), ("b", 0, 4), ("c", 0, BAD), (None, 0, 5))

    def test_sessions_with_unusable_rows_are_left_out(self, tmp_path: Path) -> None:
        log = open_log(write(tmp_path / "log.parquet", self.ROWS))
        divided = arrange(log, SessionPolicy(gap=1800.0))
        assert found(divided) == {"a": [[3]], "b": [[4]]}
        assert (divided.found, divided.incomplete) == (4, 2)
        assert found(arrange(log, SessionPolicy())) == {"b": [[4]]}
        assert (log.index.bad, log.index.without_client) == (3, 1)

    def test_they_can_be_kept_without_these_rows(self, tmp_path: Path) -> None:
        divided = arrange(
            open_log(write(tmp_path / "log.parquet", self.ROWS)), SessionPolicy(gap=1800.0, incomplete="keep")
        )
        assert found(divided) == {"a": [[1, 2], [3]], "b": [[4]]}
        assert (divided.found, divided.incomplete) == (4, 2)

    def test_a_hole_between_two_sessions_is_a_session_of_its_own(self, tmp_path: Path) -> None:
        rows = [("a", 0, 1), ("a", 100, BAD), ("a", 200, 2)]
        divided = arrange(open_log(write(tmp_path / "log.parquet", rows)), SessionPolicy(gap=1800.0))
        assert found(divided) == {"a": [[1], [2]]}
        assert (divided.found, divided.incomplete) == (3, 1)

    def test_a_row_without_a_time_is_missing_in_the_only_session_of_its_client(self, tmp_path: Path) -> None:
        rows = [("a", 0, 1), ("a", 100, 2), ("a", None, 3), ("b", 0, 4), ("b", None, 5), ("c", 0, 6)]
        log = open_log(write(tmp_path / "log.parquet", rows))
        divided = arrange(log, SessionPolicy(gap=1800.0))
        assert found(divided) == {"a": [[1], [2]], "c": [[6]]}
        assert (divided.found, divided.incomplete, divided.unplaced) == (4, 1, 1)
        whole = arrange(log, SessionPolicy())
        assert found(whole) == {"c": [[6]]}
        assert (whole.found, whole.incomplete, whole.unplaced) == (3, 2, 0)

    def test_a_row_without_a_time_is_missing_in_the_session_that_it_names(self, tmp_path: Path) -> None:
        rows = [("a", 0, 1, "x"), ("a", 1, 2, "y"), ("a", None, 3, "x"), ("a", None, 4, "z")]
        log = open_log(write(tmp_path / "log.parquet", rows, "visit"), LogFormat(session="visit"))
        divided = arrange(log, SessionPolicy(by_column=True))
        assert found(divided) == {"a": [[2]]}
        assert (divided.incomplete, divided.unplaced) == (1, 0)

    def test_a_log_without_a_complete_session_is_refused_with_the_way_out(self, tmp_path: Path) -> None:
        log = open_log(write(tmp_path / "log.parquet", [("a", 0, 1), ("a", 1, BAD)]))
        with pytest.raises(
            DataError, match=r"each of its 1 sessions has .* row 1: neither.*incomplete_sessions = 'keep'"
        ):
            arrange(log, SessionPolicy())


class TestRepeats:
    ROWS = (("a", 0, 1), ("b", 0, 1), ("a", 0, 1), ("a", 0, 2), ("a", 5, 1), ("a", 0, 1))

    def test_exact_copies_count_once_or_all(self, tmp_path: Path) -> None:
        log = open_log(write(tmp_path / "log.parquet", self.ROWS))
        assert np.flatnonzero(log.index.copy).tolist() == [2, 5]
        assert found(arrange(log, SessionPolicy())) == {"a": [[1, 2, 1]], "b": [[1]]}
        assert found(arrange(log, SessionPolicy(duplicates="keep"))) == {"a": [[1, 1, 2, 1, 1]], "b": [[1]]}

    def test_a_log_that_was_delivered_twice_gives_the_same_sessions(self, tmp_path: Path) -> None:
        rows = [("a", minute, minute % 3) for minute in range(20)] + [("b", 2 * minute, 9) for minute in range(5)]
        once = arrange(open_log(write(tmp_path / "once.parquet", rows)), SessionPolicy())
        (tmp_path / "twice").mkdir()
        write(tmp_path / "twice" / "1.parquet", rows[::-1])
        write(tmp_path / "twice" / "2.parquet", rows)
        twice = arrange(open_log(tmp_path / "twice"), SessionPolicy())
        assert found(twice) == found(once)
        assert twice.log.index.copy.sum() == len(rows)

    def test_a_copy_in_another_session_is_none(self, tmp_path: Path) -> None:
        rows = [("a", 0, 1, "x"), ("a", 0, 1, "y"), ("a", 0, 1, "x")]
        log = open_log(write(tmp_path / "log.parquet", rows, "visit"), LogFormat(session="visit"))
        assert log.index.copy.tolist() == [False, False, True]

    def test_days_do_not_tell_copies_from_queries(self, tmp_path: Path) -> None:
        table = {"client": ["a"] * 3, "time": [dt.date(2026, 10, 1)] * 3, "image": [png(picture(1))] * 3}
        pq.write_table(pa.table(table), tmp_path / "log.parquet")
        log = open_log(tmp_path / "log.parquet")
        assert (log.index.days_only, log.index.copy.sum()) == (True, 2)
        assert log.index.retry.size == 0
        assert found(arrange(log, SessionPolicy())) == {"a": [[1, 1, 1]]}
        with pytest.raises(DataError, match="session_gap is shorter than a day, but the times tell only the day"):
            arrange(log, SessionPolicy(gap=1800.0))

    def test_repetitions_after_seconds_are_counted_and_kept(self, tmp_path: Path) -> None:
        """The same image in another file counts too; another client, and a repetition after a minute, do not."""
        other = cv2.imencode(".pgm", picture(1))[1].tobytes()
        rows = [("a", 0, 1), ("a", 0.05, 1), ("a", 0.1, other), ("a", 0.12, 2), ("a", 1.2, 1), ("b", 0.06, 1)]
        log = open_log(write(tmp_path / "log.parquet", rows))
        assert np.flatnonzero(log.index.retry).tolist() == [1, 2]
        assert found(arrange(log, SessionPolicy())) == {"a": [[1, 1, 1, 2, 1]], "b": [[1]]}

    def test_rows_with_the_same_time_are_counted(self, tmp_path: Path) -> None:
        rows = [("a", 0, 1), ("a", 0, 2), ("a", 0, 1), ("a", 1, 3), ("b", 0, 4)]
        log = open_log(write(tmp_path / "log.parquet", rows))
        assert log.index.tied == 2  # the copy does not count
        assert found(arrange(log, SessionPolicy()))["a"] == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("30min", 1800), ("30 minutes", 1800), ("30m", 1800), ("1h 30min", 5400), ("1.5 hours", 5400), ("2 days", 172_800),
     ("90s", 90), ("1 week", 604_800), ("250ms", 0.25), ("1h, 5min", 3900), (90, 90), (0.5, 0.5)],
)  # fmt: skip
def test_durations_may_be_text_or_seconds(given: str | float, seconds: float) -> None:
    assert duration(given) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "given", ["", "30", "half an hour", "-5min", "0s", 0, -1, float("inf"), float("nan"), "5 mins 3"]
)
def test_other_durations_are_refused(given: str | float) -> None:
    with pytest.raises(ValueError, match=r"is not a duration .accepted: a number of seconds, or text such as '30min'"):
        duration(given)


@pytest.mark.parametrize("seconds", [1, 59.9, 60, 1800, 5400, 86_400, 604_800])
def test_a_duration_in_words_is_read_back(seconds: float) -> None:
    assert duration(duration_text(seconds)) == pytest.approx(seconds, rel=0.05)
