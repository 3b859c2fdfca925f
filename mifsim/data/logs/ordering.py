"""The common order of a log's times: their kind, their unit, and rows whose times do not fit the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mifsim.data.logs.format import TimeUnit
from mifsim.data.logs.rows import TimeKind
from mifsim.data.logs.times import shown
from mifsim.errors import DataError

MINORITY = 0.01
"""Largest share of rows whose times may be of another kind or unit than the others: they are unusable; more of them are
an error, because then no reading is right."""

PER_SECOND: dict[str, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
FAR_YEARS = 2
"""Times that are separated from most others by more years than this are reported: a clock may not have been set."""

_DAY = 86_400 * 10**9
_UNSET = np.array([0, -(10**9), -25_567 * _DAY, -25_569 * _DAY], np.int64)
"""Times that stand for a missing one, in nanoseconds: 1970-01-01 and a second before it, 1900-01-01, 1899-12-30."""
_FROM_1990, _TO_2100 = 631_152_000, 4_102_444_800  # seconds since 1970
_WORDS = {
    TimeKind.INSTANT: "times with a zone",
    TimeKind.LOCAL: "times without a zone",
    TimeKind.NUMBER: "numbers",
    TimeKind.POSITION: "positions",
}
_UNIT_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


@dataclass(frozen=True)
class Times:
    """The times of N rows with a common order.

    Attributes
    ----------
    values : ndarray of int64 or float64, shape (N,)
        Sort keys.
    per_second : int or None
        How much the values increase in a second; None if it is not known.
    by_name : bool
        Whether they are the positions of file names.
    days_only : bool
        Whether all times are whole days, so that they do not tell apart the queries of a day.
    odd : ndarray of bool, shape (N,)
        The rows whose times do not fit the others; their values are not valid.
    problems : mapping of int to str
        The reason for each of these rows.
    far : int
        Number of rows whose times are years away from those of most rows; see `FAR_YEARS`.
    first_far : str or None
        The first of these times, as text.
    """

    values: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    per_second: int | None
    by_name: bool
    days_only: bool
    odd: npt.NDArray[np.bool_]
    problems: dict[int, str]
    far: int = 0
    first_far: str | None = None


def common_times(
    kinds: npt.NDArray[np.int8],
    whole: npt.NDArray[np.int64],
    real: npt.NDArray[np.float64],
    timed: npt.NDArray[np.bool_],
    unit: TimeUnit | None,
    log: str,
) -> Times:
    """Determine the common order of N times.

    Parameters
    ----------
    kinds : ndarray of int8, shape (N,)
        The kind of each time; see `TimeKind`.
    whole, real : ndarray, shape (N,)
        The values: `real` for the kind ``REAL``, `whole` for all others.
    timed : ndarray of bool, shape (N,)
        Which rows have a time; the others are not examined.
    unit : TimeUnit or None
        The unit of numbers; None: derived, if all numbers are times of the years 1990 to 2100 in one unit.
    log : str
        The log's name for messages.

    Raises
    ------
    DataError
        If there are times of several kinds or units.
    """
    times = _ordered(kinds, whole, real, timed, unit, log)
    if times.per_second is None:
        return times
    far = _far_rows(times.values, timed & ~times.odd, times.per_second)
    shown_far = _shown(kinds, whole, real, int(far[0])) if len(far) else None
    return replace(times, far=len(far), first_far=shown_far)


def _ordered(
    kinds: npt.NDArray[np.int8],
    whole: npt.NDArray[np.int64],
    real: npt.NDArray[np.float64],
    timed: npt.NDArray[np.bool_],
    unit: TimeUnit | None,
    log: str,
) -> Times:
    """Return the order of N times, without `Times.far`; see `common_times`."""
    numeric = timed & (kinds >= TimeKind.NUMBER) & (kinds != TimeKind.POSITION)
    group = np.where(numeric, TimeKind.NUMBER, kinds)
    odd = np.zeros(len(kinds), np.bool_)
    problems: dict[int, str] = {}

    def exclude(minority: npt.NDArray[np.bool_], reason: str, remedy: str) -> None:
        rows = np.flatnonzero(minority)
        if not len(rows):
            return
        if len(rows) > MINORITY * timed.sum():
            other = int(np.flatnonzero(timed & ~odd & ~minority)[0])
            raise DataError(
                f"log {log}: the times of {len(rows):,} of {int(timed.sum()):,} rows {reason}, such as "
                f"{_shown(kinds, whole, real, int(rows[0]))} and {_shown(kinds, whole, real, other)}, so the order "
                f"of the rows is not known; {remedy}"
            )
        for row in rows.tolist():
            problems[row] = f"the time {_shown(kinds, whole, real, row)}: {reason}"[:200]
        odd[rows] = True

    main = int(np.bincount(group[timed], minlength=5).argmax()) if timed.any() else int(TimeKind.NUMBER)
    for kind in np.unique(group[timed & (group != main)]).tolist():
        reason = f"are {_WORDS[TimeKind(kind)]} beside {_WORDS[TimeKind(main)]}"
        exclude(timed & (group == kind), reason, "store all times alike, best as timestamps with a zone")
    if main == TimeKind.POSITION:
        return Times(whole, None, True, False, odd, problems)
    if main != TimeKind.NUMBER:
        known = timed & ~odd
        if (_in_unit(whole, 10**9) & known).any():
            reason = "stand for a missing time, and those of others are years later"
            exclude(known & np.isin(whole, _UNSET), reason, "set the missing times, or make them null")
        used = whole[timed & ~odd]
        days_only = bool(len(used)) and not (used % _DAY).any()
        return Times(whole, 10**9, False, days_only, odd, problems)
    values: npt.NDArray[np.int64] | npt.NDArray[np.float64] = whole
    if (numeric & (kinds == TimeKind.REAL)).any():
        values = np.where(kinds == TimeKind.REAL, real, whole.astype(np.float64))
    counts = {name: _in_unit(values, per) & numeric for name, per in PER_SECOND.items()}
    present = {name: int(rows.sum()) for name, rows in counts.items() if rows.any()}
    best = max(present, key=lambda name: present[name], default=None)
    if unit is not None:
        if best not in (None, unit) and present[str(best)] == numeric.sum():
            raise DataError(
                f"log {log}: time_unit = {unit!r}, but the times seem to count {_UNIT_WORDS[str(best)]} since 1970, "
                f"such as {_shown(kinds, whole, real, int(np.flatnonzero(numeric)[0]))}"
            )
        if unit not in present:  # numbers that count from another start than 1970
            return Times(values, PER_SECOND[unit], False, False, odd, problems)
        best = unit
    if best is None:
        return Times(values, None, False, False, odd, problems)
    remedy = "store all times in one unit" + ("" if unit is not None else ", or set time_unit")
    for name in present:
        if name != best:
            reason = f"seem to count {_UNIT_WORDS[name]} since 1970, and those of others {_UNIT_WORDS[best]}"
            exclude(counts[name], reason, remedy)
    rest = numeric & ~counts[best] & ~odd
    sentinels = rest & ((values == 0) | (values == -1))
    if (rest & ~sentinels).any() and unit is None:  # a continuous range of numbers that are not times since 1970
        return Times(values, None, False, False, odd, problems)
    exclude(
        sentinels, f"are no time since 1970, and those of others count {_UNIT_WORDS[best]}", "set the missing times"
    )
    return Times(values, PER_SECOND[best], False, False, odd, problems)


def _far_rows(
    values: npt.NDArray[np.int64] | npt.NDArray[np.float64], used: npt.NDArray[np.bool_], per_second: int
) -> npt.NDArray[np.int64]:
    """Return the rows whose times are separated by more than `FAR_YEARS` from the largest group of times."""
    rows = np.flatnonzero(used)
    rows = rows[np.argsort(values[rows], kind="stable")]
    seconds = values[rows].astype(np.float64) / per_second  # a difference of two int64 may exceed their range
    group = np.concatenate([[0], np.cumsum(np.diff(seconds) > FAR_YEARS * 365.25 * 86_400)])[: len(rows)]
    largest = np.bincount(group).argmax() if len(rows) else 0
    return np.sort(rows[group != largest])


def _in_unit(values: npt.NDArray[np.int64] | npt.NDArray[np.float64], per_second: int) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (values >= _FROM_1990 * per_second) & (values <= _TO_2100 * per_second)
    return found


def _shown(kinds: npt.NDArray[np.int8], whole: npt.NDArray[np.int64], real: npt.NDArray[np.float64], row: int) -> str:
    kind = TimeKind(int(kinds[row]))
    return shown(kind, float(real[row]) if kind is TimeKind.REAL else int(whole[row]))
