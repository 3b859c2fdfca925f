"""One of several workers: a guard with an HTTP server, connected with its parent and the other workers."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import uvicorn

from mifsim.guard.active import Active
from mifsim.guard.app import GuardApp
from mifsim.guard.clock import Clock
from mifsim.guard.core import GuardService
from mifsim.guard.http_server import GuardServer, ReadAgain, reload_on_hangup, run, server_config
from mifsim.guard.shards import Shard
from mifsim.guard.upstream import HttpUpstream
from mifsim.guard.workers.links import Links
from mifsim.guard.workers.listening import Acceptor

logger = logging.getLogger(__name__)

STARTED, FAILED = b"s", b"f"
"""What a worker tells its parent; the message follows `FAILED`."""


@dataclass
class WorkerStart:
    """What a worker gets from its parent.

    Attributes
    ----------
    shard : Shard
    active : Active
        The settings in use, which may be older than the file.
    alone : bool
        Whether the guard only gives verdicts.
    read_again : callable
    clock : Clock
        That of all workers, and of those before them.
    listeners : list of socket
    links : dict of int to socket
        Connections with the other workers by their number.
    control : socket
        The worker writes `STARTED` to it, and reads later connections from it. It ends with the parent.
    """

    shard: Shard
    active: Active
    alone: bool
    read_again: ReadAgain
    clock: Clock
    listeners: list[socket.socket]
    links: dict[int, socket.socket]
    control: socket.socket


def run_worker(start: WorkerStart) -> None:
    """Run a worker until SIGTERM, or the end of its parent.

    Raises
    ------
    GuardError
        If it cannot start.
    """
    active = _own_part(start.active, start.shard.workers)
    upstream = None if start.alone else HttpUpstream(active.settings.upstream)
    guard = GuardService(active.settings, upstream, clock=start.clock, shard=start.shard, active=active)
    app = GuardApp(guard, start.alone, own_process=True)
    config = server_config(app, active.settings)
    run(config, _run(_WorkerServer(config, app, start), app, start))


def _own_part(active: Active, workers: int) -> Active:
    """Return the settings of one worker: it has its part of the memory."""
    limits = active.settings.limits
    limits = limits.model_copy(update={"memory_mb": max(1, limits.memory_mb // workers)})
    return replace(active, settings=active.settings.model_copy(update={"limits": limits}))


async def _run(server: _WorkerServer, app: GuardApp, start: WorkerStart) -> None:
    loop = asyncio.get_running_loop()
    links = Links(app.guard)
    app.guard.peers = links
    for worker, connection in start.links.items():
        await links.attach(worker, connection)
    attaching: set[asyncio.Task[None]] = set()

    def from_parent() -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(start.control, 1, 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            message = b""
        if not message:  # the parent was killed
            loop.remove_reader(start.control)
            logger.error("the parent process has ended; shutting down")
            server.handle_exit(signal.SIGTERM, None)
            return
        task = loop.create_task(links.attach(message[0], socket.socket(fileno=descriptors[0])))
        attaching.add(task)
        task.add_done_callback(attaching.discard)

    start.control.setblocking(False)
    loop.add_reader(start.control, from_parent)
    reload_on_hangup(app, start.read_again)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # one that came before is handled now
    try:
        await server.serve_or_fail()
    finally:
        loop.remove_reader(start.control)
        await links.close()


class _WorkerServer(GuardServer):
    """A server that shares its listening sockets with other workers."""

    def __init__(self, config: uvicorn.Config, app: GuardApp, start: WorkerStart) -> None:
        super().__init__(config, app)
        self._start = start
        self._acceptor: Acceptor | None = None

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Start, take connections, and tell the parent."""
        await super().startup([])
        if self.should_exit:
            return
        loop = asyncio.get_running_loop()
        protocol_class: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        protocol = functools.partial(
            protocol_class, config=self.config, server_state=self.server_state, app_state=self.lifespan.state,
            _loop=loop,
        )  # fmt: skip
        self._acceptor = Acceptor(self._start.listeners, protocol, self.config.ssl)
        self._start.control.send(STARTED)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Take no more connections, finish the open ones, and stop."""
        if self._acceptor is not None:
            self._acceptor.close()
        await super().shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Leave SIGINT to the parent: a terminal sends it to all processes."""
        if sig != signal.SIGINT:
            super().handle_exit(sig, frame)
