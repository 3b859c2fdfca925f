"""Sockets that several processes listen on, and how each takes its share of the connections."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from ssl import SSLContext

from mifsim.errors import GuardError
from mifsim.guard.http_server import cannot_listen

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_PAUSE_SECONDS = 1.0
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on all addresses of a host.

    All workers share them, and so the queue of new connections: while one of them is restarted, the others take its
    part. (With a socket for each worker by ``SO_REUSEPORT``, connections in the queue of a dead worker would wait for
    it or be lost, and another guard could listen on the same port without an error.)

    Raises
    ------
    GuardError
        If this is not possible.
    """
    found: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            found.append(socket.socket(family, kind, protocol))
            found[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                found[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            found[-1].bind(address)
            found[-1].listen(_BACKLOG)
            found[-1].setblocking(False)
    except OSError:
        for listener in found:
            listener.close()
        raise GuardError(cannot_listen(host, port)) from None
    return found


class Acceptor:
    """Takes connections from shared sockets, one in each round of the event loop.

    The event loops' own servers take all connections that wait, so that the worker that wakes up first gets most of
    them.

    Parameters
    ----------
    sockets : list of socket
    protocol : callable
        Returns a new HTTP protocol.
    tls : SSLContext or None
    """

    def __init__(
        self, sockets: list[socket.socket], protocol: Callable[[], asyncio.Protocol], tls: SSLContext | None
    ) -> None:
        self._sockets, self._protocol, self._tls = sockets, protocol, tls
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        for listener in sockets:
            self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was faster, or the client is gone
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            logger.error("no connection can be taken: %s", error)
            self._loop.remove_reader(listener)
            self._loop.call_later(_PAUSE_SECONDS, self._resume, listener)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._sockets:
            self._loop.add_reader(listener, self._accept, listener)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection, ssl=self._tls)
        except OSError:  # of TLS, for example: the client has no certificate
            connection.close()

    def close(self) -> None:
        """Take no more connections."""
        for listener in self._sockets:
            self._loop.remove_reader(listener)
            listener.close()
        self._sockets = []
