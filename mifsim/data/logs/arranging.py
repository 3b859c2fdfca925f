"""The division of a log's rows into sessions, under a policy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mifsim.data.logs.index import LogIndex
from mifsim.data.logs.policy import SessionPolicy
from mifsim.data.logs.query_log import QueryLog
from mifsim.data.logs.sessions import Bools, Ints, LogSessions
from mifsim.data.logs.traffic import missing_queries
from mifsim.errors import DataError


@lru_cache(maxsize=16)
def arrange(log: QueryLog, policy: SessionPolicy) -> LogSessions:
    """Divide the rows of a log into sessions.

    Raises
    ------
    DataError
        If the policy needs times that the log does not have, or leaves no session.
    """
    index = log.index
    seconds = _seconds(log, policy)
    once = policy.duplicates == "once" and not index.days_only  # with days alone, a copy may be a second query
    pooled = index.usable & ~index.copy if once else index.usable
    placed = index.timed & (index.session >= 0) if policy.by_column else index.timed
    rows = np.flatnonzero(pooled | (placed & ~index.usable))  # unusable rows are holes of their session
    order = rows[np.lexsort((rows, index.times[rows], index.client[rows]))]
    longest_pause = _longest_pause(index, order)
    overlapping = 0
    if policy.by_column:
        order, overlapping = _by_session(index, order)
        new = _changes(index.client, order) | _changes(index.session, order)
    else:
        new = _changes(index.client, order)
        if seconds is not None and policy.gap is not None:
            new[1:] |= np.diff(seconds[order]) > policy.gap
    session = np.cumsum(new) - 1
    count = int(session[-1]) + 1 if len(order) else 0
    client = index.client[order][new]
    usable = pooled[order]
    holes = np.bincount(session, ~usable, count).astype(np.int64)
    if policy.by_column and len(index.query):
        holes += missing_queries(index.query[order], session, count)
    elsewhere, unplaced = _elsewhere(index, client, index.session[order][new], ~index.usable & ~placed, policy)
    holes += elsewhere
    left = np.bincount(session, usable, count) > 0
    kept = left & (holes == 0) if policy.incomplete == "leave-out" else left
    if not kept.any():
        which = "missing rows" if index.first_bad is None else f"unusable rows, the first: {index.first_bad}"
        raise DataError(
            f"log {log.path}: each of its {count:,} sessions has {which} (accepted: a log with complete sessions, or "
            "incomplete_sessions = 'keep')"
        )
    chosen = usable & kept[session]
    place = np.cumsum(pooled) - 1
    lost_clients = len(np.setdiff1d(np.unique(index.client), client))  # none of their rows has a time
    lengths = np.bincount(session[chosen], minlength=count)[kept]
    sessions_of = np.bincount(client[kept], minlength=len(index.clients))
    present = np.flatnonzero(sessions_of)
    return LogSessions(
        log=log,
        policy=policy,
        clients=tuple(index.clients[number] for number in present.tolist()),
        client_offsets=_offsets(sessions_of[present]),
        session_offsets=_offsets(lengths),
        order=place[order[chosen]].astype(np.int64),
        pooled=pooled,
        found=count + lost_clients,
        incomplete=int((holes > 0).sum()) + lost_clients,
        unplaced=unplaced,
        longest_pause=longest_pause,
        overlapping=overlapping,
    )


def _seconds(log: QueryLog, policy: SessionPolicy) -> npt.NDArray[np.float64] | None:
    index = log.index
    if policy.by_column or policy.gap is None:
        return None
    if index.seconds is None:
        raise DataError(
            f"log {log.path}: session_gap needs times whose unit is known (accepted: timestamps, dates, ISO 8601 text, "
            "or numbers with time_unit; a folder of images has none)"
        )
    if index.days_only and policy.gap < 86_400:
        raise DataError(
            f"log {log.path}: session_gap is shorter than a day, but the times tell only the day (accepted: a gap of "
            "at least '1 day', or times with hours)"
        )
    return index.seconds


def _by_session(index: LogIndex, order: Ints) -> tuple[Ints, int]:
    """Order rows by the first time of their session, then by time; also return how many sessions overlap an earlier."""
    session = index.session[order]
    count = int(session.max(initial=-1)) + 1
    first = np.full(count, len(order))
    np.minimum.at(first, session, np.arange(len(order)))
    last = np.full(count, -1)
    np.maximum.at(last, session, np.arange(len(order)))
    by_session = order[np.lexsort((np.arange(len(order)), first[session]))]
    starts = np.flatnonzero(_changes(index.client, by_session) | _changes(index.session, by_session))
    ids = index.session[by_session[starts]]
    latest = np.maximum.accumulate(last[ids]) if len(ids) else last[:0]
    # `order` is sorted by client first, so that a session of another client never reaches beyond its own client.
    return by_session, int((first[ids][1:] < latest[:-1]).sum())


def _changes(column: npt.NDArray[np.int32], order: Ints) -> Bools:
    values = column[order]
    return np.concatenate([np.ones(min(1, len(order)), np.bool_), values[1:] != values[:-1]])


def _elsewhere(
    index: LogIndex,
    client: npt.NDArray[np.int32],
    session: npt.NDArray[np.int32],
    unplaced: Bools,
    policy: SessionPolicy,
) -> tuple[Ints, int]:
    """Return for each session the number of unusable rows that belong to it though they have no place among the others.

    Parameters
    ----------
    index : LogIndex
    client, session : ndarray of int32, shape (S,)
        The client, and the id in the log, of each session.
    unplaced : ndarray of bool, shape (N,)
        The unusable rows without a time, or without a session that the policy asks for.
    policy : SessionPolicy

    Returns
    -------
    ndarray of int64, shape (S,)
        Such rows with the session's id, or of a client with one session.
    int
        Number of the other ones, of which it is not known in which session they are missing.
    """
    named = unplaced & (index.session >= 0) if policy.by_column else np.zeros(len(unplaced), np.bool_)
    sessions = np.bincount(client, minlength=len(index.clients))
    rows = np.bincount(index.client[unplaced & ~named], minlength=len(index.clients))
    found = np.where(sessions == 1, rows, 0)[client]
    if named.any():
        found = found + np.bincount(index.session[named], minlength=int(index.session.max()) + 1)[session]
    return found.astype(np.int64), int(rows[sessions > 1].sum())


def _longest_pause(index: LogIndex, order: Ints) -> float | None:
    if index.seconds is None:
        return None
    pauses = np.diff(index.seconds[order])[~_changes(index.client, order)[1:]]
    return float(pauses.max(initial=0.0))


def _offsets(counts: npt.NDArray[np.int64]) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
