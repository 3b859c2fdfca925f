"""The sessions of a guard's log, as the watch counts them; needs pyarrow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mifsim.watch.coverage import Coverage, other_format, other_shape
from mifsim.watch.log_rows import Bools, Ints, LogRows, distinct, read_rows, smallest
from mifsim.watch.near_misses import nearness_bin
from mifsim.watch.promise import Promise
from mifsim.watch.sessions import Cut, WatchedSession


@dataclass(frozen=True)
class WatchedLog:
    """What a log tells.

    Attributes
    ----------
    sessions : list of WatchedSession
        The decided sessions, in the order of their start.
    outside : list of bool
        Whether the certificate does not cover each of them.
    coverage : Coverage
        Of the decided sessions.
    rows : int
        Number of rows, of all configurations.
    other_filters : dict of str to int
        Number of rows of other configurations, which are left out, by digest.
    unanswered : int
        Number of rows without an answer, which are left out: these queries were undone.
    undecided : int
        Number of sessions that are younger than the age of the cut.
    without_start : int
        Number of sessions whose first query is not in the log, which are left out.
    incomplete : int
        Number of decided sessions of which some other row is missing.
    end : float
        Time of the last row, in seconds since 1970.
    """

    sessions: list[WatchedSession]
    outside: list[bool]
    coverage: Coverage
    rows: int
    other_filters: dict[str, int]
    unanswered: int
    undecided: int
    without_start: int
    incomplete: int
    end: float


def read_log(folder: Path, digest: str, promise: Promise, cut: Cut) -> WatchedLog:
    """Read the log of a guard.

    Parameters
    ----------
    folder : Path
        The folder of Parquet files, or one of them.
    digest : str
        Digest of the filter that is watched; rows of others are left out.
    promise : Promise
    cut : Cut

    Returns
    -------
    WatchedLog

    Raises
    ------
    DataError
        If there is no such log, it has no rows, a file cannot be read, or a column is missing or of another type. The
        message names the file.

    Notes
    -----
    Sessions are decided by the time of the log's last row, not by the present time, because rows are hidden until
    their file is complete. A session whose first query is not in the log is left out: among the sessions that started
    before the log did, only long ones are seen. A session of which another row is missing counts, as blocked only if
    the row that blocks it is there. So each session counts as blocked at most if it was, which keeps false alarms
    rare; lost rows can only hide a block.
    """
    rows = read_rows(folder)
    watched, kept = rows.kept(digest)
    last = int(rows.time.max())
    other = np.bincount(rows.filter[~watched], minlength=len(rows.texts["filter"]))
    number = len(rows.texts["session"])
    first_query = smallest(number, rows.session[watched], rows.query[watched])
    session, query, time = rows.session[kept], rows.query[kept], rows.time[kept]
    start = smallest(number, session, time)
    present = np.bincount(session, minlength=number) > 0
    has_start = present & (first_query == 1)
    unsafe = rows.unsafe[kept]
    blocked_time = smallest(number, session[unsafe], time[unsafe])
    blocked_at = smallest(number, session[unsafe], query[unsafe])
    queries = np.zeros(number, np.int64)
    np.maximum.at(queries, session, query)
    within = (time - start[session] <= cut.age * 1e6) & (query <= cut.queries)
    nearness = np.zeros(number, np.int64)
    np.maximum.at(nearness, session[within], nearness_bin(rows.count, rows.limit)[kept][within])
    missing = distinct(number, session, query) < queries
    never = np.iinfo(np.int64).max
    found = [
        WatchedSession(
            float(start[i] / 1e6),
            rows.texts["session"][i],
            float("inf") if blocked_time[i] == never else float(blocked_time[i] / 1e6),
            0 if blocked_at[i] == never else int(blocked_at[i]),
            int(queries[i]),
            int(nearness[i]),
        )
        for i in np.flatnonzero(has_start).tolist()
    ]
    sessions = cut.decided(found, last / 1e6)
    place = {key: i for i, key in enumerate(rows.texts["session"])}
    order = np.array([place[item.key] for item in sessions], np.int64)
    outside, coverage = _covered(rows, kept, order, queries, promise)
    return WatchedLog(
        sessions,
        outside,
        coverage,
        len(rows.time),
        {rows.texts["filter"][i]: int(other[i]) for i in np.flatnonzero(other).tolist()},
        int((watched & ~kept).sum()),
        len(found) - len(sessions),
        int((present & ~has_start).sum()),
        int(missing[order].sum()),
        last / 1e6,
    )


def _covered(rows: LogRows, kept: Bools, order: Ints, queries: Ints, promise: Promise) -> tuple[list[bool], Coverage]:
    """Return whether each session of an order is outside of the certificate, and the coverage of all of them."""
    number = len(rows.texts["session"])
    decided = np.zeros(number, np.bool_)
    decided[order] = True
    seen: dict[str, Bools] = {}
    counts: dict[str, dict[str, int]] = {}
    for name, is_other in (("shape", other_shape), ("content_type", other_format)):
        texts = rows.texts[name]
        pairs = np.unique(rows.session[kept] * len(texts) + getattr(rows, name)[kept])
        members, values = pairs // len(texts), pairs % len(texts)
        others = np.array([is_other(text, promise) for text in texts])[values] & decided[members]
        seen[name] = np.bincount(members[others], minlength=number) > 0
        found = np.bincount(values[decided[members]], minlength=len(texts)).tolist()
        counts[name] = {text: count for text, count in zip(texts, found, strict=True) if count}
    longer = decided & (queries > promise.longest)
    outside = longer | seen["shape"] | seen["content_type"]
    return outside[order].tolist(), Coverage(
        len(order),
        int(longer.sum()),
        int(seen["shape"].sum()),
        int(seen["content_type"].sum()),
        int(outside.sum()),
        counts["shape"],
        counts["content_type"],
    )
