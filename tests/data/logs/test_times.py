"""Times of a log: their types, their common order, and times that have none."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mifsim.data.logs import LogFormat, QueryLog, SessionPolicy, arrange, open_log
from mifsim.data.logs.rows import TimeKind
from mifsim.data.logs.times import Problem, Time, parse
from mifsim.errors import DataError
from mifsim.run.log_notes import facts_of
from tests.data.logs.small_logs import picture, png, streams

UTC = dt.UTC
START = dt.datetime(2026, 10, 1, 10)
MINUTES = [3, 0, 4, 1, 5, 2]
"""When the queries were sent, in minutes after the start; the levels of their images are in this order."""


def write(path: Path, times: list[Any], kind: pa.DataType | None = None) -> Path:
    """Write a log of one client whose images have the levels 0, 1, 2, …, in the order of the rows."""
    images = [png(picture(level)) for level in range(len(times))]
    table = {"client": ["a"] * len(times), "time": pa.array(times, kind), "image": images}
    pq.write_table(pa.table(table), path)
    return path


def order(log: QueryLog) -> list[int]:
    return streams(log)["a"]


IN_ORDER = np.argsort(MINUTES).tolist()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda time: time.isoformat(), pa.string()),
        (lambda time: time.isoformat(" ", "milliseconds"), pa.large_string()),
        (lambda time: time.strftime("%Y%m%dT%H%M%S,5"), pa.string_view()),
        (lambda time: f"{time.isoformat()}Z", pa.string()),
        (lambda time: time.isoformat(), None),
        (lambda time: f"{time.timestamp():.6f}", pa.string()),
        (lambda time: decimal.Decimal(int(time.timestamp())), pa.decimal128(20, 3)),
        (lambda time: int(time.timestamp()) * 10**9, pa.uint64()),
        (lambda time: time, pa.timestamp("s")),
        (lambda time: time, pa.timestamp("ns", "Asia/Tokyo")),
        (lambda time: f"2026-W40-{1 + time.minute}", pa.string()),
    ],
    ids=["iso", "space", "basic", "Z", "default", "text of a number", "decimal", "uint64", "seconds", "zone", "week"],
)
def test_times_of_many_types_give_the_same_order(
    make: Callable[[dt.datetime], Any], kind: pa.DataType | None, tmp_path: Path
) -> None:
    times = [make(START + dt.timedelta(minutes=minute)) for minute in MINUTES]
    log = open_log(write(tmp_path / "log.parquet", times, kind))
    assert order(log) == IN_ORDER
    assert log.index.descents == sum(a > b for a, b in itertools.pairwise(MINUTES))


def test_zones_are_taken_into_account(tmp_path: Path) -> None:
    """Instants 0, 1, 2, … minutes after the start, each written in a zone in which it looks different."""
    zones = [dt.timezone(dt.timedelta(hours=hours, minutes=30)) for hours in (9, -5, 0, 13, -9, 3)]
    instants = [(START + dt.timedelta(minutes=minute)).replace(tzinfo=UTC) for minute in MINUTES]
    times = [instant.astimezone(zone).isoformat() for instant, zone in zip(instants, zones, strict=True)]
    assert sorted(times) != [times[place] for place in IN_ORDER]
    assert order(open_log(write(tmp_path / "log.parquet", times))) == IN_ORDER


def test_no_order_is_lost_below_a_microsecond(tmp_path: Path) -> None:
    ticks = [1_790_000_000_000_000_003, 1_790_000_000_000_000_001, 1_790_000_000_000_000_002]
    for name, kind in {"numbers": pa.int64(), "timestamps": pa.timestamp("ns")}.items():
        assert order(open_log(write(tmp_path / f"{name}.parquet", ticks, kind))) == [1, 2, 0]
    text = [f"2026-09-21T16:53:20.{tick % 10**9:09}Z" for tick in ticks]
    assert order(open_log(write(tmp_path / "text.parquet", text))) == [1, 2, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", Time(TimeKind.INSTANT, 10**9)),
        ("1970-01-01T01:00:00+01:00", Time(TimeKind.INSTANT, 0)),
        ("1970-01-02", Time(TimeKind.LOCAL, 86_400 * 10**9)),
        ("19700102", Time(TimeKind.LOCAL, 86_400 * 10**9)),
        ("1970-01-01T00:00:00.000000001", Time(TimeKind.LOCAL, 1)),
        ("1970-01-01T00:00:00,25", Time(TimeKind.LOCAL, 250_000_000)),
        ("2016-12-31T23:59:60Z", parse("2017-01-01T00:00:00Z")),
        ("1970-01-01 00:00:01.5 UTC", Time(TimeKind.INSTANT, 1_500_000_000)),
        ("1970-01-01t00:00:01z", Time(TimeKind.INSTANT, 10**9)),
        ("17", Time(TimeKind.NUMBER, 17)),
        ("10000006", Time(TimeKind.NUMBER, 10_000_006)),
        ("1711111111", Time(TimeKind.NUMBER, 1_711_111_111)),
        ("-1.5e3", Time(TimeKind.REAL, -1500.0)),
        ("", None),
        (" NaT ", None),
    ],
)
def test_text_is_read_as_iso_8601_or_a_number(text: str, expected: Time | None) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["01/10/2026", "Thu Oct 1 10:00:00 2026", "10:60:00", "2026-13-01", "1e999", "9" * 5000, "0001-01-01T00:00+09:00"],
)
def test_text_that_is_no_time_is_a_problem(text: str) -> None:
    found = parse(text)
    assert isinstance(found, Problem)
    assert len(found.text) < 150


class TestWithoutACommonOrder:
    def test_text_that_is_not_iso_is_refused_with_what_is_accepted(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"row 0: '01/10/2026': the time is not ISO 8601, such as 2026-10-01T10:00"):
            open_log(write(tmp_path / "log.parquet", ["01/10/2026", "02/10/2026"]))

    def test_times_with_and_without_a_zone_are_refused(self, tmp_path: Path) -> None:
        times = ["2026-10-01T10:00:00", "2026-10-01T10:00:01+02:00", "2026-10-01T10:00:02"]
        with pytest.raises(
            DataError,
            match=r"the times of 1 of 3 rows are times with a zone beside times without a zone, such as "
            r"2026-10-01T08:00:01Z and 2026-10-01T10:00:00, so the order of the rows is not known",
        ):
            open_log(write(tmp_path / "log.parquet", times))

    def test_files_with_and_without_a_zone_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "1.parquet", [START, START], pa.timestamp("us"))
        write(tmp_path / "2.parquet", [START, START, START], pa.timestamp("us", "UTC"))
        with pytest.raises(
            DataError, match="the times of 2 of 5 rows are times without a zone beside times with a zone"
        ):
            open_log(tmp_path)

    def test_seconds_among_milliseconds_are_refused(self, tmp_path: Path) -> None:
        times = [1_790_000_000_000, 1_790_000_060_000, 1_790_000_120]
        with pytest.raises(
            DataError,
            match=r"the times of 1 of 3 rows seem to count seconds since 1970, and those of others milliseconds, "
            r"such as 1790000120 and 1790000000000, .*set time_unit",
        ):
            open_log(write(tmp_path / "log.parquet", times))

    @pytest.mark.parametrize(
        ("odd", "problem"),
        [
            (0, "are no time since 1970, and those of others count milliseconds"),
            (1_790_000_000, "seem to count seconds since 1970, and those of others milliseconds"),
        ],
    )
    def test_a_few_odd_times_among_many_are_bad_rows(self, odd: int, problem: str, tmp_path: Path) -> None:
        times = [1_790_000_000_000 + number for number in range(200)]
        times[150] = odd
        write(tmp_path / "1.parquet", times[:120])
        write(tmp_path / "2.parquet", times[120:])
        log = open_log(tmp_path)
        assert [(Path(row.file).name, row.row, row.client) for row in log.bad] == [("2.parquet", 30, "a")]
        assert log.bad[0].problem == f"the time {odd}: {problem}"
        assert (log.index.bad, log.index.usable.sum()) == (1, 199)

    def test_numbers_that_are_no_times_since_1970_have_an_order_but_no_unit(self, tmp_path: Path) -> None:
        log = open_log(write(tmp_path / "log.parquet", [3, 0, 10**10, 1]))
        assert order(log) == [1, 3, 0, 2]
        assert log.index.per_second is None
        with pytest.raises(DataError, match=r"session_gap needs times whose unit is known .*time_unit"):
            arrange(log, SessionPolicy(gap=60.0))
        known = open_log(tmp_path / "log.parquet", LogFormat(time_unit="s"))
        assert len(arrange(known, SessionPolicy(gap=60.0)).lengths) == 2

    @pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
    def test_the_unit_of_numbers_is_found_from_their_size(self, unit: str, per_second: int, tmp_path: Path) -> None:
        log = open_log(write(tmp_path / "log.parquet", [1_790_000_000 * per_second + step for step in range(3)]))
        assert log.index.per_second == per_second

    def test_a_unit_that_does_not_fit_the_times_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "log.parquet", [1_790_000_000_000, 1_790_000_060_000])
        with pytest.raises(DataError, match="time_unit = 's', but the times seem to count milliseconds since 1970"):
            open_log(path, LogFormat(time_unit="s"))

    @pytest.mark.parametrize(("odd", "problem"), [(0, "are no time since 1970"), (1_790_000_000_000, "milliseconds")])
    def test_a_stated_unit_does_not_hide_times_that_do_not_fit_it(self, odd: int, problem: str, tmp_path: Path) -> None:
        times = [1_790_000_000 + number for number in range(200)]
        times[7] = odd
        log = open_log(write(tmp_path / "log.parquet", times), LogFormat(time_unit="s"))
        assert [row.row for row in log.bad] == [7]
        assert problem in log.bad[0].problem
        with pytest.raises(DataError, match=f"the times of 1 of 10 rows .*{problem}.*"):
            open_log(write(tmp_path / "short.parquet", times[:10]), LogFormat(time_unit="s"))

    def test_times_out_of_range_are_bad_rows(self, tmp_path: Path) -> None:
        times = pa.array([2**62, 1_790_000_000, -(2**62)]).cast(pa.timestamp("us"))
        log = open_log(write(tmp_path / "log.parquet", times, times.type))
        assert [(row.row, row.problem) for row in log.bad] == [
            (row, "the time is out of range (accepted: the years 1678 to 2261)") for row in (0, 2)
        ]
        infinite = open_log(write(tmp_path / "real.parquet", [1.0, float("inf"), float("nan")]))
        assert [row.problem for row in infinite.bad] == ["the time is infinite", "no time"]


class TestTimesYearsAway:
    """Clocks that were not set, and the zeros of clocks that stand for a missing time."""

    @pytest.mark.parametrize("unset", [dt.datetime(1970, 1, 1), dt.datetime(1900, 1, 1), dt.datetime(1899, 12, 30)])
    def test_the_zero_of_a_clock_is_no_time(self, unset: dt.datetime, tmp_path: Path) -> None:
        times = [START + dt.timedelta(seconds=number) for number in range(200)]
        times[150] = unset
        log = open_log(write(tmp_path / "log.parquet", times, pa.timestamp("us")))
        assert [row.row for row in log.bad] == [150]
        assert log.bad[0].problem == (
            f"the time {unset.isoformat()}: stand for a missing time, and those of others are years later"
        )
        assert log.index.far == 0
        text = [time.isoformat() + "Z" for time in times[145:155]]
        with pytest.raises(
            DataError,
            match=rf"the times of 1 of 10 rows stand for a missing time, .*such as {unset.isoformat()}Z and 2026-10-01T"
            r".*the order of the rows is not known; set the missing times",
        ):
            open_log(write(tmp_path / "text.parquet", text))

    def test_a_log_that_counts_from_1970_is_accepted(self, tmp_path: Path) -> None:
        times = [dt.datetime(1970, 1, 1) + dt.timedelta(seconds=number) for number in MINUTES]
        log = open_log(write(tmp_path / "log.parquet", times, pa.timestamp("us")))
        assert (order(log), log.index.bad, log.index.far) == (IN_ORDER, 0, 0)

    def test_times_years_from_most_others_are_counted_and_told(self, tmp_path: Path) -> None:
        times = [START + dt.timedelta(minutes=number) for number in range(10)]
        times[3], times[6] = dt.datetime(2003, 1, 1, 0, 5), dt.datetime(2036, 1, 1)
        log = open_log(write(tmp_path / "log.parquet", times, pa.timestamp("us")))
        assert (log.index.bad, log.index.far, log.index.first_far) == (0, 2, "2003-01-01T00:05:00")
        facts = facts_of(arrange(log, SessionPolicy()), None)
        assert facts["rows_years_away"] == 2
        (note,) = [note for note in facts["notes"] if "years away" in note]
        assert note.startswith("2 of 10 rows have times that are more than 2 years away from those of most rows")
        assert "such as 2003-01-01T00:05:00;" in note

    def test_a_log_of_many_years_is_no_reason_to_report(self, tmp_path: Path) -> None:
        times = [dt.datetime(2012 + year, 1, 1) for year in range(15)]
        log = open_log(write(tmp_path / "log.parquet", times, pa.timestamp("us")))
        assert log.index.far == 0
        assert not any("years away" in note for note in facts_of(arrange(log, SessionPolicy()), None)["notes"])
