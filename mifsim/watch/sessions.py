"""Sessions as the watch counts them: in the order of their start, with an outcome cut at a fixed age.

Sessions must not be counted as they end: blocked ones end early, so the first that are over would mostly be blocked
ones. A session is therefore decided when a fixed time has passed since its start, whatever happened to it. Its outcome
is whether it was *blocked within this time and within its first queries*, as many as the longest certified session has.
This is less likely than a block at any time, so the promise holds for it as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from mifsim.watch.near_misses import BINS


class WatchedSession(NamedTuple):
    """What the watch knows of a session.

    Attributes
    ----------
    start : float
        Time of its first counted query, in seconds since 1970.
    key : str
        What tells it from others that start at the same time.
    blocked : float
        Time of its block; infinite if it is not blocked.
    blocked_at : int
        Number of the query that was blocked, from 1; 0: it is not blocked.
    queries : int
        Number of its queries so far.
    nearness : int
        Bin of its largest count within the cut; see `mifsim.watch.near_misses.nearness_bin`.
    """

    start: float
    key: str
    blocked: float = math.inf
    blocked_at: int = 0
    queries: int = 0
    nearness: int = 0


class Cut(NamedTuple):
    """Where the outcome of a session is cut.

    Attributes
    ----------
    age : float
        Seconds since its start.
    queries : float
        Number of queries; may be infinite.
    """

    age: float
    queries: float = math.inf

    def blocked(self, session: WatchedSession) -> bool:
        """Return whether a session counts as blocked."""
        return session.blocked - session.start <= self.age and 0 < session.blocked_at <= self.queries

    def nearness(self, session: WatchedSession) -> int:
        """Return the bin of a session's largest count within the cut."""
        highest = BINS - 1
        return highest if self.blocked(session) else min(session.nearness, highest - 1)

    def decided(self, sessions: Iterable[WatchedSession], now: float) -> list[WatchedSession]:
        """Return the sessions whose age has passed, in the order of their start."""
        return sorted(session for session in sessions if session.start + self.age <= now)
