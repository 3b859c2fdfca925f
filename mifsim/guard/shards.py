"""Which of several processes owns a client, and what one of them asks of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from mifsim.guard.ledger import Entry
from mifsim.guard.message import Reply, Request

Samples = list[Any]
"""The metrics of a process as plain values; see `mifsim.guard.metrics.Metrics.samples`."""


@dataclass(frozen=True)
class Shard:
    """The clients that one of several workers owns.

    The owner of a client follows from the client's hash alone, so that neither the connection nor the load nor anything
    else in a request changes it. The queries of a client are judged by its owner and by nobody else.

    Attributes
    ----------
    worker : int
        Number of this worker, from 0.
    workers : int
        Number of all workers.

    Examples
    --------
    >>> shard = Shard(worker=1, workers=2)
    >>> shard.owner(bytes(16)), shard.owns(bytes(16))
    (0, False)
    """

    worker: int = 0
    workers: int = 1

    def owner(self, client: bytes) -> int:
        """Return the number of the worker that owns a client, whose hash is uniformly distributed."""
        return int.from_bytes(client[:8], "big") % self.workers

    def owns(self, client: bytes) -> bool:
        """Return whether this worker owns a client."""
        return self.workers == 1 or self.owner(client) == self.worker


class Peers(Protocol):
    """The other workers, as a guard sees them."""

    async def ask(self, client: bytes, request: Request, alone: bool) -> Reply:
        """Return the answer of the worker that owns a client to its request.

        Parameters
        ----------
        client : bytes
            Hash of its identity.
        request : Request
        alone : bool
            Whether only the verdict is asked for.

        Raises
        ------
        Refused
            With the reason ``owner-failed`` if that worker does not answer. No other worker may judge the request.
        """

    async def problem(self) -> str:
        """Return why one of the other workers is not ready; an empty string if all are."""

    async def samples(self) -> dict[int, Samples]:
        """Return the metrics of the workers that answer, by their numbers."""

    def replaced(self, entry: Entry) -> None:
        """Tell the first worker, which watches all sessions, of a session that its client has replaced by a new one."""

    async def leave(self, seconds: float) -> None:
        """Tell the other workers that this one asks nothing any more, and wait until none of them does."""
