"""The sessions of a log's clients, under a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from mifsim.cache import digest
from mifsim.data.base import ArrayPool, SubsetPool
from mifsim.data.logs.policy import SessionPolicy
from mifsim.data.logs.query_log import QueryLog
from mifsim.data.preprocessing import Preprocessing

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SUGGESTED_GAP = 1800.0
"""Pause in seconds that messages suggest as the end of a session: 30 minutes, as web analytics has it."""


@dataclass(frozen=True)
class LogPool(SubsetPool):
    """The images of one client, in the order of its sessions and of time.

    Attributes
    ----------
    starts : tuple of int
        Positions at which the sessions begin; the first is 0.
    """

    starts: tuple[int, ...] = (0,)


@dataclass(frozen=True, eq=False)
class LogSessions:
    """The sessions of a log that are replayed.

    Attributes
    ----------
    log : QueryLog
    policy : SessionPolicy
    clients : tuple of str
        Ids of the C clients with at least one session, in the order of `LogIndex.clients`.
    client_offsets : ndarray of int64, shape (C + 1,)
        The sessions of each client, as positions in `session_offsets`.
    session_offsets : ndarray of int64, shape (S + 1,)
        The images of each session, as positions in `order`.
    order : ndarray of int64, shape (Q,)
        Positions of the images in the pool.
    pooled : ndarray of bool, shape (N,)
        The rows of the log's index whose images form the pool.
    found : int
        Number of sessions, with those that are left out.
    incomplete : int
        How many of these have unusable or missing rows; sessions of which nothing is left count too.
    unplaced : int
        Number of unusable rows of clients with several sessions of which it is not known in which session they are
        missing, because they have no time (or no session id).
    longest_pause : float or None
        Longest time in seconds between two queries of a client; None if the unit of the times is not known.
    overlapping : int
        Number of sessions that begin before an earlier session of the client ends. They are replayed one after the
        other.
    """

    log: QueryLog
    policy: SessionPolicy
    clients: tuple[str, ...] = field(repr=False)
    client_offsets: Ints = field(repr=False)
    session_offsets: Ints = field(repr=False)
    order: Ints = field(repr=False)
    pooled: Bools = field(repr=False)
    found: int
    incomplete: int
    unplaced: int
    longest_pause: float | None
    overlapping: int

    def __len__(self) -> int:
        return len(self.clients)

    @property
    def path(self) -> Path:
        """The log's file or folder."""
        return self.log.path

    @property
    def lengths(self) -> Ints:
        """Number of images of each session."""
        return np.diff(self.session_offsets)

    @property
    def most_sessions(self) -> int:
        """Number of sessions of the client with the most of them."""
        return int(np.diff(self.client_offsets).max())

    @property
    def mean_images(self) -> float:
        """Mean number of images per client."""
        return len(self.order) / len(self.clients)

    @property
    def content(self) -> str:
        """A digest of the log's content and of the policy: equal digests mean equal sessions."""
        return digest(self.log.index.content, vars(self.policy))

    def pools(self, preprocessing: Preprocessing) -> ClientPools:
        """Return the images of each client as the model receives them; see `QueryLog.prepared`."""
        prepared = self.log.prepared(preprocessing, self.pooled)
        return ClientPools(prepared.pool, self, prepared.facts)


@dataclass(frozen=True, eq=False)
class ClientPools(Sequence[LogPool]):
    """A sequence of pools, one per client, in the order of `LogSessions.clients`.

    Attributes
    ----------
    pool : ArrayPool
        The images of all clients.
    sessions : LogSessions
    losses : mapping
        What preprocessing lost: see `mifsim.data.preprocessing.Losses.to_dict`; ``rounded`` is the number of arrays of
        floats that were rounded to 8 bits.
    """

    pool: ArrayPool
    sessions: LogSessions = field(repr=False)
    losses: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sessions)

    @overload
    def __getitem__(self, client: int) -> LogPool: ...
    @overload
    def __getitem__(self, client: slice) -> list[LogPool]: ...
    def __getitem__(self, client: int | slice) -> LogPool | list[LogPool]:
        if isinstance(client, slice):
            return [self[number] for number in range(*client.indices(len(self)))]
        number = range(len(self))[client]
        found = self.sessions
        first, end = found.client_offsets[number], found.client_offsets[number + 1]
        bounds = found.session_offsets[first : end + 1]
        starts = tuple((bounds[:-1] - bounds[0]).tolist())
        return LogPool(self.pool, found.order[bounds[0] : bounds[-1]], starts)
