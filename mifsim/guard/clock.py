"""The time of sessions, which does not jump when somebody sets the machine's clock."""

from __future__ import annotations

import time


class Clock:
    """Seconds since 1970 by the clock at the start, and from then on by one that is never set.

    A step of the clock would otherwise end sessions early, which resets counts, or late.
    """

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def now(self) -> float:
        """Return the time, in whole microseconds, as a ledger stores it."""
        return (self._offset + time.monotonic_ns()) // 1000 / 1e6
