"""What a ledger stores of each client, and the interface of ledgers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class LedgerError(Exception):
    """A ledger cannot be read or written."""


class Superseded(LedgerError):
    """Another owner has taken the client since; what this one knows of it is out of date."""


class Entry(NamedTuple):
    """The durable state of a client: its current session, and whether it is blocked.

    Attributes
    ----------
    client : bytes
        Hash of its identity.
    started, last : float
        Times of the first and the last counted query of the session, in seconds since 1970.
    queries : int
        Number of counted queries of the session.
    counts : str
        The detector's counts as JSON; empty for a new detector. See `mifsim.defense.DurableDetector.durable_counts`.
    blocked : float
        Time of the block; 0 if the client is not blocked.
    config : str
        Digest of the detector's configuration, which the session keeps.
    epoch : int
        Number of times that the owner has changed.
    """

    client: bytes
    started: float = 0.0
    last: float = 0.0
    queries: int = 0
    counts: str = ""
    blocked: float = 0.0
    config: str = ""
    epoch: int = 0


class Ledger(ABC):
    """A durable table of entries, one for each client.

    A client has one owner at a time, a process of a guard. It `take`s the client, keeps the images of its session, and
    `put`s an entry after each query. When another owner takes the client, the epoch rises, and the first owner's next
    `put` fails: it must take the client again, and forget its images, which are out of date.

    All methods are coroutines, because a ledger may be on another machine. Those of a local ledger wait
    only while another process writes.
    """

    @abstractmethod
    async def open(self) -> None:
        """Connect, and create what is missing.

        Raises
        ------
        LedgerError
            If this is not possible.
        """

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    @abstractmethod
    async def take(self, client: bytes) -> Entry | None:
        """Become the owner of a client, and return its entry; None if it has none.

        Raises
        ------
        LedgerError
            If the ledger cannot be read or written.
        """

    @abstractmethod
    async def put(self, entry: Entry) -> None:
        """Write an entry; it is durable when this method returns.

        Raises
        ------
        Superseded
            If the epoch is not that of the stored entry, or another owner has created one.
        LedgerError
            If the ledger cannot be written.
        """

    @abstractmethod
    async def meta(self, key: str, value: str) -> str:
        """Return the stored value of a key; if there is none, store this one and return it."""

    @abstractmethod
    async def keep(self, key: str, value: str) -> None:
        """Store the value of a key, in place of an earlier one; `meta` returns it."""

    @abstractmethod
    async def started(self, after: float, until: float) -> list[Entry]:
        """Return the entries whose session started after a time, and not after another one, in any order.

        The owners do not change. It may read all entries.
        """

    @abstractmethod
    async def configs(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the stored configurations of detectors by digest."""

    @abstractmethod
    async def add_config(self, digest: str, config: Mapping[str, Any]) -> None:
        """Store a configuration, so that open sessions can continue with it after a restart."""

    @abstractmethod
    async def probe(self) -> None:
        """Test that the ledger can be written.

        Raises
        ------
        LedgerError
            If it cannot.
        """

    @abstractmethod
    async def blocked(self, counts: Callable[[bytes], bool]) -> int:
        """Return the number of blocked clients, of those for which a function is true."""

    @abstractmethod
    async def prune(self, before: float) -> int:
        """Delete clients that are not blocked and whose session started before a time; return their number."""
