"""Where a session ends, and for how long a client is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mifsim.guard.durations import parse_duration
from mifsim.guard.ledger import Entry
from mifsim.guard.refusals import Refused
from mifsim.guard.tables import Sessions


@dataclass(frozen=True)
class SessionPolicy:
    """The ``[sessions]`` table in seconds.

    Attributes
    ----------
    period, gap : float
        May be infinite.
    forever : bool
        Whether a block does not end.
    """

    period: float
    gap: float
    forever: bool

    @classmethod
    def of(cls, settings: Sessions) -> SessionPolicy:
        """Return the policy of a table."""
        return cls(
            parse_duration(settings.period, "forever"),
            parse_duration(settings.gap, "none"),
            settings.block == "forever",
        )

    def end(self, entry: Entry) -> float:
        """Return the time at which a session ends if no query follows; infinite if it does not end."""
        if entry.queries == 0:  # all of its queries were undone
            return -math.inf
        return min(entry.started + self.period, entry.last + self.gap)

    def current(self, entry: Entry, now: float, config: str, keeps_counts: bool) -> Entry:
        """Return the entry of the session to which a query belongs: the open one, or a new one.

        Parameters
        ----------
        entry : Entry
        now : float
        config : str
            Digest of the configuration of new sessions.
        keeps_counts : bool
            Whether the detector belongs to the client, so that its counts and its configuration stay.

        Raises
        ------
        Refused
            If the client is blocked.
        """
        if entry.blocked:
            ends = math.inf if self.forever or keeps_counts else entry.started + self.period
            if now < ends:
                raise Refused("blocked", retry_after=None if math.isinf(ends) else ends - now)
        elif now < self.end(entry):
            return entry
        if keeps_counts:
            return entry._replace(started=now, last=now, queries=0)
        return Entry(entry.client, now, now, config=config, epoch=entry.epoch)

    def check_length(self, entry: Entry, images: int, most: float, now: float) -> None:
        """Raise `Refused` if a session would have more queries than it may have."""
        if images > most:
            raise Refused("too-large", f"a request has at most {most:g} images")
        if entry.queries + images > most:
            end = self.end(entry)
            raise Refused("session-full", retry_after=None if math.isinf(end) else end - now)
