"""A guard behind real HTTP in a thread of the test, with a model in the same process."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn

from mifsim.guard.app import GuardApp
from mifsim.guard.core import GuardService
from mifsim.guard.http_protocol import GuardProtocol
from mifsim.guard.ledger.memory import MemoryLedger
from tests.guard.guards import Model, request_for, settings

SECONDS = 60.0


class Served:
    """A guard that listens on loopback.

    Attributes
    ----------
    model : Model
    port : int
    """

    def __init__(self, folder: Path, **tables: Any) -> None:
        self.model, self._ledger = Model(), MemoryLedger()
        self._guard = GuardService(settings(folder, **tables), self.model, ledger=self._ledger)
        config = uvicorn.Config(
            GuardApp(self._guard),
            host="127.0.0.1",
            port=0,
            http=GuardProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()))
        self._thread.start()
        self._until(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self._until(lambda: self.exchange(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n") == [200])

    def _until(self, condition: Any) -> None:
        end = time.monotonic() + SECONDS
        while not condition():
            assert self._thread.is_alive()
            assert time.monotonic() < end
            time.sleep(0.005)

    def stop(self) -> None:
        """End the server."""
        self._server.should_exit = True
        self._thread.join(SECONDS)

    def exchange(self, *parts: bytes, answers: int = 1, hang_up: bool = False) -> list[int]:
        """Send parts over one connection; return the statuses of the answers.

        Parameters
        ----------
        parts : bytes
        answers : int
            Number of answers to wait for; fewer are returned if the server closes the connection before.
        hang_up : bool
            Close the connection without waiting for an answer.
        """
        with socket.create_connection(("127.0.0.1", self.port), SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                connection.sendall(part)
                if len(parts) > 1:
                    time.sleep(0.002)
            if hang_up:
                return []
            text = b""
            while len(found := re.findall(rb"HTTP/1\.1 (\d{3}) ", text.replace(b"HTTP/1.1 100 ", b""))) < answers:
                try:
                    more = connection.recv(65_536)
                except ConnectionResetError:
                    break
                if not more:
                    break
                text += more
            return [int(status) for status in found]

    def queries(self, user: str = "ann") -> int:
        """Return the number of counted queries of a client."""
        entry, _ = self._ledger._entries.get(self._client(user), (None, None))
        return 0 if entry is None else entry.queries

    def clients(self) -> int:
        """Return the number of clients in the ledger."""
        return len(self._ledger._entries)

    def _client(self, user: str) -> bytes:
        return self._guard._identifier.client(request_for([], user))
