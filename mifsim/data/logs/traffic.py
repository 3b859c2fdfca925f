"""The traffic log of a guard (see `mifsim.guard.traffic`), which is read without a word of configuration.

Its sessions are those that the guard has seen. Queries that were undone are left out, because the detector has no trace
of them. Queries are numbered, so that a session of which rows are missing is found, and treated like one with unusable
rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mifsim.data.logs.format import LogFormat
from mifsim.data.logs.parquet import open_part
from mifsim.data.logs.parts import parquet_parts
from mifsim.data.logs.policy import SessionPolicy
from mifsim.errors import DataError

SESSION = "session"

Ints = npt.NDArray[np.int64]


def recognised(path: Path, form: LogFormat, policy: SessionPolicy) -> tuple[LogFormat, SessionPolicy]:
    """Return the format and the policy of a log: those of a guard's log, or the given ones.

    Parameters
    ----------
    path : Path
        See `mifsim.data.logs.reading.log_rows`.
    form : LogFormat
    policy : SessionPolicy
        A gap divides a guard's log, too, instead of its sessions.

    Raises
    ------
    DataError
        If it is a guard's log that this version cannot read, that has no images, or that has no complete file yet.
    """
    parts = parquet_parts(path)
    if parts is None:
        if any(path.glob(".guard-*.journal")):
            raise DataError(
                f"log {path}: a guard's traffic log without a complete file yet; send SIGHUP to the guard, or stop it"
            )
        return form, policy
    versions = {part.file: _facts(part.file) for part in parts}
    traffic = [file for file, facts in versions.items() if facts]
    if not traffic:
        return form, policy
    if len(traffic) < len(parts):
        other = next(file for file, facts in versions.items() if not facts)
        raise DataError(f"log {other}: not a file of a guard's traffic log, as others in the folder are")
    for file, facts in versions.items():
        _check(file, facts)
    if policy.gap is None:
        policy = replace(policy, by_column=True)
        form = replace(form, session=form.session or SESSION)
    return replace(form, traffic=True), policy


def missing_queries(query: Ints, session: Ints, count: int) -> Ints:
    """Return for each session how many queries before its last one have no row.

    Rows are missing if a process was killed before it wrote them, if they were dropped, or if the files of the
    session's start were deleted.

    Parameters
    ----------
    query, session : ndarray of int64, shape (N,)
        Number of each query within its session, from 1, and the session.
    count : int
        Number of sessions.
    """
    last = np.zeros(count, np.int64)
    np.maximum.at(last, session, query)
    missing: Ints = np.maximum(last - np.bincount(session, minlength=count), 0)
    return missing


def _facts(file: Path) -> Mapping[bytes, bytes]:
    found = file.stat()
    return _stored(file, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=4096)
def _stored(file: Path, *stamp: int) -> Mapping[bytes, bytes]:
    """Return what a file's schema states about a traffic log; nothing if it is none."""
    from mifsim.tables.traffic_schema import IMAGES_KEY, VERSION_KEY

    with open_part(file) as opened:
        metadata = opened.schema_arrow.metadata or {}
    return {key: metadata.get(key, b"") for key in (VERSION_KEY, IMAGES_KEY)} if VERSION_KEY in metadata else {}


def _check(file: Path, facts: Mapping[bytes, bytes]) -> None:
    from mifsim.tables.traffic_schema import IMAGES_KEY, TRAFFIC_VERSION, VERSION_KEY

    version = facts[VERSION_KEY].decode("ascii", "replace")
    if version != str(TRAFFIC_VERSION):
        raise DataError(
            f"log {file}: a guard's traffic log of version {version!r}: not supported by this mifsim "
            f"(accepted: {TRAFFIC_VERSION})"
        )
    if facts[IMAGES_KEY] != b"all":
        raise DataError(
            f"log {file}: the guard has left out the images (log.images = 'none'), so that it cannot be replayed "
            "(accepted: a log with images)"
        )
