"""The sessions in memory: their detectors with the images, and the answers that are kept for repeated requests."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from mifsim.defense import DurableDetector
from mifsim.guard.ledger import Entry
from mifsim.guard.message import Reply, Request
from mifsim.guard.refusals import Refused

_DEPTH = 5
_OVERHEAD = 1024
_LATER = 1000
"""Microseconds by which queries may have a later time than the last one in the ledger: each image of a request has its
own."""
KEY_HEADER = "idempotency-key"
_LONGEST_KEY = 255
_LARGEST_KEPT = 64 * 1024
"""Bytes; larger answers are not kept."""


class LogName(NamedTuple):
    """What the traffic log calls a client and its session.

    Attributes
    ----------
    started : float
        Start of the session; see `mifsim.guard.ledger.Entry`.
    stored : tuple
        The client's hash, the start in microseconds, and the digest of the configuration.
    wanted : bool
        Whether the session is in the sample that is logged.
    """

    started: float
    stored: tuple[bytes, int, bytes]
    wanted: bool


class Session:
    """What one process knows of a client. The lock makes the queries of a client follow each other.

    Attributes
    ----------
    entry : Entry or None
        Equal to that of the ledger; None: not read yet, or out of date.
    detector : DurableDetector or None
        None: it is created from the counts at the next query.
    time : int
        Time of the last judged query in microseconds since 1970; 0 if this process has judged none.
    log_name : LogName or None
        None: not computed yet.
    doubted : Entry or None
        The entry to which the detector belongs, if the ledger may have another one, because a write has failed.
    """

    __slots__ = ("detector", "doubted", "entry", "level", "lock", "log_name", "nbytes", "replies", "time", "waiting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0
        self.entry: Entry | None = None
        self.detector: DurableDetector | None = None
        self.time = 0
        self.log_name: LogName | None = None
        self.doubted: Entry | None = None
        self.level = 0
        self.nbytes = _OVERHEAD
        self.replies: OrderedDict[str, tuple[bytes, Reply]] | None = None  # most clients send no key

    def forget(self) -> None:
        """Drop everything that is not in the ledger."""
        self.entry = self.detector = self.doubted = None

    def doubt(self, entry: Entry) -> None:
        """Read the entry again before the next query; the detector is kept if the ledger still has this one."""
        self.entry, self.doubted = None, entry

    def learn(self, entry: Entry) -> None:
        """Use the entry that the ledger has."""
        if entry != self.doubted:
            self.detector = None
        self.entry, self.doubted = entry, None

    def times(self, now: float, before: Entry, queries: int) -> int:
        """Return the time of the first of some queries, and keep that of the last one.

        Each query has a time of its own, later than those before it even if the clock was set back while the guard did
        not run.

        Parameters
        ----------
        now : float
            Seconds since 1970.
        before : Entry
            The session's entry before them.
        queries : int

        Returns
        -------
        int
            Microseconds since 1970.
        """
        earliest = self.time + 1
        if self.time == 0 and before.queries:  # another process may have judged the queries before
            earliest = round(before.last * 1e6) + _LATER
        first = max(round(now * 1e6), earliest)
        self.time = first + queries - 1
        return first

    def repeated(self, key: str | None, digest: bytes) -> Reply | None:
        """Return the kept answer to a request with an idempotency key, or None.

        Raises
        ------
        Refused
            If the key was used with another request.
        """
        if key is None or self.replies is None or key not in self.replies:
            return None
        known, reply = self.replies[key]
        if known != digest:
            raise Refused("key-reused")
        return reply

    def keep(self, key: str | None, digest: bytes, reply: Reply, most: int) -> None:
        """Keep an answer; the oldest of too many is dropped."""
        if key is None or not most or len(reply.body) > _LARGEST_KEPT:
            return
        if self.replies is None:
            self.replies = OrderedDict()
        self.replies[key] = digest, reply
        while len(self.replies) > most:
            self.replies.popitem(last=False)


class SessionTable:
    """The sessions in memory, the least recently used first.

    Parameters
    ----------
    most_bytes : int
        Memory of their detectors. Above it, the images of sessions without a query for the longest time are forgotten,
        which changes no count.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, client: bytes) -> Session:
        """Return the session of a client."""
        session = self._sessions.get(client)
        if session is None:
            session = self._sessions[client] = Session()
            self.nbytes += session.nbytes
        else:
            self._sessions.move_to_end(client)
        return session

    def measure(self, session: Session, queries: int) -> int:
        """Update the memory of a session, and return the number of others that were forgotten to make room.

        Memory is measured when the number of queries has reached another power of two, because it grows by doubling
        arrays. A batch may pass over a power of two.
        """
        if queries < 2 or queries.bit_length() != session.level:
            before, session.level = session.nbytes, queries.bit_length()
            kept = sum(len(reply.body) for _, reply in (session.replies or {}).values())
            session.nbytes = _OVERHEAD + kept + array_bytes(session.detector)
            self.nbytes += session.nbytes - before
        forgotten = 0
        while self.nbytes > self._most and len(self._sessions) > 1:
            client = next(
                (client for client, other in self._sessions.items() if not other.waiting and other is not session), None
            )
            if client is None:
                break
            self.nbytes -= self._sessions.pop(client).nbytes
            forgotten += 1
        return forgotten


def array_bytes(holder: Any) -> int:
    """Return the size of the arrays that an object holds, in bytes.

    Read-only arrays do not count, because sessions share them. Several arrays over the same memory count once.
    """
    return sum(size for _, size in _memory(holder, _DEPTH))


def _memory(holder: Any, depth: int) -> set[tuple[int, int]]:
    """Return the address and the size of each writeable array that an object holds."""
    if isinstance(holder, np.ndarray):
        return {(holder.__array_interface__["data"][0], holder.nbytes)} if holder.flags.writeable else set()
    if depth == 0 or holder is None or isinstance(holder, (str, bytes, int, float, type)):
        return set()
    items: Iterable[Any]
    if isinstance(holder, (list, tuple)):
        items = holder
    elif isinstance(holder, dict):
        items = holder.values()
    else:
        items = [getattr(holder, name, None) for name in _slots(holder.__class__)]
        items += getattr(holder, "__dict__", {}).values()
    found: set[tuple[int, int]] = set()
    for item in items:
        found |= _memory(item, depth - 1)
    return found


@lru_cache(maxsize=256)
def _slots(kind: Any) -> tuple[str, ...]:
    return tuple(name for cls in kind.__mro__ for name in getattr(cls, "__slots__", ()))


def idempotency_key(request: Request) -> str | None:
    """Return the value of ``Idempotency-Key``; None if the request has none.

    Raises
    ------
    Refused
        If it is too long, or there are two of them.
    """
    values = request.headers.all(KEY_HEADER)
    if not values:
        return None
    if len(values) > 1 or not 1 <= len(values[0]) <= _LONGEST_KEY:
        raise Refused("key-reused", f"Idempotency-Key must be one text of 1 to {_LONGEST_KEY} characters")
    return values[0]


def request_digest(request: Request) -> bytes:
    """Return a digest of what a request asks: method, target, media type and body."""
    sha = hashlib.sha256()
    length = request.headers.get("inference-header-content-length") or ""
    for part in (request.method, request.target, request.headers.get("content-type") or "", length):
        sha.update(part.encode() + b"\0")
    sha.update(request.body)
    return sha.digest()
