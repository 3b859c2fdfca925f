"""Replay of detectors that flag queries, and block when a session has a certain number of flags."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.defense.recording import Floats, Ints, Outcome, RecordedSessions


def blocked_by_flags(
    sessions: RecordedSessions,
    flagged: npt.NDArray[np.bool_],
    limit: int,
    closeness: Floats,
    *,
    after_the_answer: bool = False,
) -> Outcome:
    """Return the outcome of a detector that blocks at the `limit`-th flagged query of a session.

    Parameters
    ----------
    sessions : RecordedSessions
    flagged : ndarray of bool, shape (Q,)
        Whether a query is flagged; False for an invalid one.
    limit : int
        Number of flags that block; at least 1.
    closeness : ndarray of float64, shape (Q,)
        How nearly a query is flagged, in [0, 1]; it orders sessions with equal numbers of flags in `Outcome.nearness`.
    after_the_answer : bool
        Whether a query is flagged only after the model's answer. Then the next valid query is the first UNSAFE one.
    """
    first, last = sessions.offsets[:-1], sessions.offsets[1:]
    before = np.concatenate([[0], np.cumsum(flagged)])  # flags before each query
    flags = before[last] - before[first]
    # The row after the flagged query with which the limit is reached.
    end = np.searchsorted(before, before[first] + limit)
    blocked = flags >= limit
    if after_the_answer:
        valid = np.append(np.flatnonzero(sessions.valid), sessions.valid.size)
        end = valid[np.searchsorted(valid, np.minimum(end, sessions.valid.size))] + 1
        blocked = blocked & (end <= last)
    blocked_at = np.where(blocked, end - first, 0).astype(np.int64)
    closest = _largest(sessions, np.where(flagged, 0.0, np.clip(closeness, 0.0, 1.0)))
    return Outcome(blocked_at, np.minimum(1.0, (flags + closest) / limit))


def _largest(sessions: RecordedSessions, values: Floats) -> Floats:
    """Return the largest of the queries' values for each session; 0 for a session without queries."""
    found = np.zeros(sessions.sessions)
    nonempty = sessions.lengths > 0
    starts: Ints = sessions.offsets[:-1][nonempty]
    if starts.size:
        found[nonempty] = np.maximum.reduceat(values, starts)
    return found


def recorded_column(sessions: RecordedSessions, name: str) -> npt.NDArray[Any]:
    """Return a recorded column.

    Raises
    ------
    ValueError
        If the recording does not contain it. The message lists the columns.
    """
    if name not in sessions.columns:
        known = ", ".join(sessions.columns) or "no column"
        raise ValueError(f"{name}: not in the recording, which contains {known}")
    return sessions.columns[name]
