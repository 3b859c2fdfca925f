"""The sessions of a period of a guard's log, one of each client, for a new certification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mifsim.errors import DataError
from mifsim.watch.log_rows import LogRows, distinct, log_files, read_rows, smallest
from mifsim.watch.near_misses import nearness_bin

_BATCH_ROWS = 256
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class PeriodSession:
    """One session of the period.

    Attributes
    ----------
    client, session : str
        As in the log.
    blocked : bool
        Whether the guard blocked it.
    truncated : bool
        Whether a row of it is missing, or it may not have ended when the log did.
    filter : str
        Digest of the configuration under which it ran.
    nearness : int
        Bin of its largest count; see `mifsim.watch.near_misses.nearness_bin`.
    """

    client: str
    session: str
    blocked: bool
    truncated: bool
    filter: str
    nearness: int

    @property
    def cut(self) -> bool:
        """Whether the session's end is not known, so that it counts as blocked under every configuration."""
        return self.blocked or self.truncated


@dataclass(frozen=True)
class Period:
    """All sessions of a log that started in a period.

    Attributes
    ----------
    start, end : float
        The period, in seconds since 1970; the end does not belong to it.
    found : int
        Number of sessions that started in it.
    without_start : int
        Number of sessions that are left out because their first query is not in the log.
    drawn : dict of str to PeriodSession
        One session of each client, by the client's id.
    """

    start: float
    end: float
    found: int
    without_start: int
    drawn: Mapping[str, PeriodSession]


def sessions_of_period(log: Path, start: float, end: float, lasting: float) -> Period:
    """Return all sessions that started in a period, and draw one of each client.

    Parameters
    ----------
    log : Path
        The log of a guard.
    start, end : float
        The period, in seconds since 1970.
    lasting : float
        Longest time that a session lasts, in seconds.

    Raises
    ------
    DataError
        If the log is not valid, or has no session in the period.

    Notes
    -----
    The session of a client is drawn by a digest of the client's id, which depends on no outcome, as in a calibration.
    """
    rows = read_rows(log)
    number = len(rows.texts["session"])
    kept = rows.answered | rows.unsafe
    session, query, time = rows.session[kept], rows.query[kept], rows.time[kept]
    first_query = smallest(number, rows.session, rows.query)
    started = smallest(number, session, time)
    inside = (started >= start * 1e6) & (started < end * 1e6)
    whole = inside & (first_query == 1)
    if not whole.any():
        raise DataError(f"{log}: no session started in the period (the log has rows {_extent(rows)})")
    queries = np.zeros(number, np.int64)
    np.maximum.at(queries, session, query)
    known = distinct(number, session, query)
    nearness = np.zeros(number, np.int64)
    np.maximum.at(nearness, session, nearness_bin(rows.count, rows.limit)[kept])
    blocked = np.bincount(session[rows.unsafe[kept]], minlength=number) > 0
    still_open = ~blocked & (started + lasting * 1e6 > rows.time.max())
    of_session = {name: np.zeros(number, np.int64) for name in ("client", "filter")}
    for name, values in of_session.items():
        values[rows.session] = getattr(rows, name)
    by_client: dict[str, list[int]] = {}
    for i in sorted(np.flatnonzero(whole).tolist(), key=lambda i: (started[i], rows.texts["session"][i])):
        by_client.setdefault(rows.texts["client"][of_session["client"][i]], []).append(i)
    drawn = {}
    for client, members in by_client.items():
        i = members[_drawn(client, len(members))]
        drawn[client] = PeriodSession(
            client,
            rows.texts["session"][i],
            bool(blocked[i]),
            bool(known[i] < queries[i] or still_open[i]),
            rows.texts["filter"][of_session["filter"][i]],
            int(nearness[i]),
        )
    return Period(start, end, int(whole.sum()), int((inside & (first_query > 1)).sum()), drawn)


def _drawn(client: str, sessions: int) -> int:
    return int.from_bytes(sha256(f"one session\0{client}".encode()).digest()[:8], "big") % sessions


def _extent(rows: LogRows) -> str:
    first, last = (np.datetime64(int(value), "us").item() for value in (rows.time.min(), rows.time.max()))
    return f"from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"


def copy_drawn(log: Path, period: Period, folder: Path) -> None:
    """Write the rows of the drawn sessions to a folder, file by file, without queries that were undone.

    Raises
    ------
    DataError
        If a row has no image: the guard logged similarities only.
    """
    wanted = pa.array([session.session for session in period.drawn.values()], pa.string())
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(log_files(log)):
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if "image" not in schema.names:
                raise DataError(f"{path}: has no column 'image' (expected a log of mifsim guard with images)")
            with pq.ParquetWriter(folder / f"{number:06d}.parquet", schema) as writer:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    members = pc.is_in(batch["session"].cast(pa.string()), wanted)
                    unsafe = pc.equal(batch["verdict"].cast(pa.string()), "unsafe")
                    chosen = batch.filter(pc.and_(members, pc.or_(batch["answered"], unsafe)))
                    if chosen["image"].null_count:
                        raise DataError(
                            f"{path}: {chosen['image'].null_count:,} queries of the period have no image (expected a "
                            "log of mifsim guard with images)"
                        )
                    if chosen.num_rows:
                        writer.write_batch(chosen)
