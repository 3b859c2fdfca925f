"""The connections of a worker with all others."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import orjson

from mifsim.guard.core import GuardService
from mifsim.guard.ledger import Entry
from mifsim.guard.message import Reply, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.shards import Samples
from mifsim.guard.workers.link import BEAT_SECONDS, PROBLEM, SAMPLES, Link


class Links:
    """The other workers, as one of them sees them; implements `mifsim.guard.shards.Peers`.

    Parameters
    ----------
    guard : GuardService
        That of this worker.
    """

    def __init__(self, guard: GuardService) -> None:
        self._guard = guard
        self._links: dict[int, Link] = {}
        self._beating: asyncio.Task[None] | None = None

    async def attach(self, worker: int, connection: socket.socket) -> None:
        """Use a connection with another worker, in place of one with its predecessor."""
        if self._beating is None:
            self._beating = asyncio.get_running_loop().create_task(self._beat())

        def ended(link: Link) -> None:
            if self._links.get(worker) is link:
                del self._links[worker]

        connection.setblocking(False)
        link = Link(self._guard, ended)
        old = self._links.get(worker)
        self._links[worker] = link
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=connection)
        if old is not None:
            old.close()

    async def ask(self, client: bytes, request: Request, alone: bool) -> Reply:
        """See `Peers`."""
        link = self._links.get(self._guard.shard.owner(client))
        if link is None:
            raise Refused("owner-failed")
        return await link.ask(client, request, alone)

    async def problem(self) -> str:
        """See `Peers`."""
        shard = self._guard.shard
        for worker in range(shard.workers):
            if worker != shard.worker:
                problem = await self._problem_of(worker)
                if problem:
                    return problem
        return ""

    async def _problem_of(self, worker: int) -> str:
        with contextlib.suppress(Refused):
            if (link := self._links.get(worker)) is not None:
                return (await link.question(PROBLEM)).decode()
        return "a server process does not answer"

    async def samples(self) -> dict[int, Samples]:
        """See `Peers`."""
        found = {}
        for worker, link in list(self._links.items()):
            with contextlib.suppress(Refused):
                found[worker] = orjson.loads(await link.question(SAMPLES))
        return found

    def replaced(self, entry: Entry) -> None:
        """See `Peers`."""
        if (link := self._links.get(0)) is not None:
            link.replaced(entry)

    async def leave(self, seconds: float) -> None:
        """See `Peers`."""
        for link in self._links.values():
            link.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for link in list(self._links.values()):
                    await link.left.wait()

    async def close(self) -> None:
        """End all connections."""
        for link in list(self._links.values()):
            link.close()
        if self._beating is not None:
            self._beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beating

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            for link in list(self._links.values()):
                link.beat()
