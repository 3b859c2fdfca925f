"""Times of a log's rows: timestamps, dates, ISO 8601 text, and numbers."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from mifsim.data.logs.cells import Problem, is_text, texts
from mifsim.data.logs.format import excerpt
from mifsim.data.logs.rows import TimeKind

if TYPE_CHECKING:
    import pyarrow as pa

ACCEPTED_TIMES = "timestamps, dates, numbers or ISO 8601 text"

_TICKS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_LARGEST = 2**63 - 1
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_ZONE = re.compile(r"\s+(?:UTC|GMT|Z)$")  # as databases write it
_LEAP = re.compile(r"(:\d\d):60")
_FRACTION = re.compile(r"[.,](\d+)")
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)


class Time(NamedTuple):
    """One time: its kind, and its value in the unit of the kind; see `TimeKind`."""

    kind: TimeKind
    value: int | float


def is_time(kind: pa.DataType) -> bool:
    """Return whether a column of this type can contain times."""
    import pyarrow as pa

    is_ = pa.types
    if is_.is_dictionary(kind):
        return is_time(kind.value_type)
    return bool(
        is_.is_timestamp(kind)
        or is_.is_date(kind)
        or is_.is_integer(kind)
        or is_.is_floating(kind)
        or is_.is_decimal(kind)
        or is_text(kind)
        or is_.is_null(kind)
    )


def time_cells(column: pa.Array) -> list[Time | Problem | None]:
    """Return the times of a column of a type that `is_time` accepts; None for null and NaN.

    Timestamps and dates become nanoseconds, with which no order is lost.
    """
    import pyarrow as pa

    kind, is_ = column.type, pa.types
    if is_.is_dictionary(kind):
        return time_cells(column.dictionary_decode())
    if is_text(kind):
        return [None if text is None else parse(text) for text in texts(column)]
    if is_.is_timestamp(kind):
        zone = TimeKind.LOCAL if kind.tz is None else TimeKind.INSTANT
        ticks = _TICKS[kind.unit]
        values = column.cast(pa.int64()).to_pylist()
        return [None if value is None else _limited(zone, value * ticks) for value in values]
    if is_.is_date(kind):
        ticks = 86_400 * 10**9 if is_.is_date32(kind) else 10**6
        values = column.cast(pa.int32() if is_.is_date32(kind) else pa.int64()).to_pylist()
        return [None if value is None else _limited(TimeKind.LOCAL, value * ticks) for value in values]
    if is_.is_decimal(kind):
        values = [None if value is None else float(value) for value in column.to_pylist()]
        return [_number(value) for value in values]
    return [_number(value) for value in column.to_pylist()]


def _number(value: int | float | None) -> Time | Problem | None:
    if value is None or value != value:
        return None
    if isinstance(value, int):
        return _limited(TimeKind.NUMBER, value)
    if value in (float("inf"), float("-inf")):
        return Problem("the time is infinite")
    return Time(TimeKind.REAL, value)


def _limited(kind: TimeKind, value: int) -> Time | Problem:
    if abs(value) > _LARGEST:
        years = " (accepted: the years 1678 to 2261)" if kind is not TimeKind.NUMBER else ""
        return Problem(f"the time is out of range{years}")
    return Time(kind, value)


def parse(text: str) -> Time | Problem | None:
    """Read a time from text: ISO 8601 with or without a zone, or a number; None if the text is empty.

    Examples
    --------
    >>> parse("2026-10-01T10:00:00+02:00") == parse("2026-10-01 08:00:00Z")
    True
    >>> parse("2026-10-01").kind.name, parse("1790000000").kind.name
    ('LOCAL', 'NUMBER')
    """
    text = text.strip()
    if not text or text.lower() in ("null", "none", "nan", "nat"):
        return None
    found = _moment(_ZONE.sub("Z", text.upper()))
    # The compact form of a date (20261001) has 8 digits; other text of digits is a number.
    if _NUMBER.fullmatch(text) and (len(text) != 8 or found is None):
        try:
            return _number(int(text) if text.lstrip("+-").isdigit() else float(text))
        except ValueError:  # Python limits the number of digits
            return Problem("the time is out of range")
    if found is None:
        return Problem(f"{excerpt(text)}: the time is not ISO 8601, such as 2026-10-01T10:00:00+02:00")
    kind = TimeKind.LOCAL if found.tzinfo is None else TimeKind.INSTANT
    try:
        plain = found.replace(tzinfo=None) if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:  # the first or the last day of the calendar
        return Problem("the time is out of range (accepted: the years 1678 to 2261)")
    # Python ignores the digits after the sixth of a fraction of a second.
    fraction = _FRACTION.search(text)
    rest = int((fraction[1][6:9]).ljust(3, "0")) if fraction and len(fraction[1]) > 6 else 0
    return _limited(kind, (plain - _EPOCH) // _MICROSECOND * 1000 + rest)


def _moment(text: str) -> datetime | None:
    """Read ISO 8601 text; the second 60 of a leap second, which Python refuses, is the start of the next minute."""
    for written, later in ((text, 0), (_LEAP.sub(r"\1:59", text), 1)):
        try:
            return datetime.fromisoformat(written) + timedelta(seconds=later)
        except (ValueError, OverflowError):
            continue
    return None


def shown(kind: TimeKind, value: int | float) -> str:
    """Return a time for a message."""
    if kind in (TimeKind.INSTANT, TimeKind.LOCAL):
        moment = _EPOCH + timedelta(microseconds=int(value) // 1000)
        return moment.isoformat() + ("Z" if kind is TimeKind.INSTANT else "")
    return f"{value!r}"
