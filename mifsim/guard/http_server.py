"""The HTTP server of a guard: uvicorn, its signals, and TLS."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import uvicorn

from mifsim.errors import GuardError, UserError
from mifsim.guard.app import GuardApp
from mifsim.guard.config import GuardConfig
from mifsim.guard.http_protocol import GuardProtocol

logger = logging.getLogger(__name__)

ReadAgain = Callable[[], GuardConfig]
"""Returns the settings as they are now; it may raise `UserError`."""


def server_config(app: GuardApp, settings: GuardConfig) -> uvicorn.Config:
    """Return uvicorn's settings."""
    listen = settings.listen
    return uvicorn.Config(
        app,
        host=listen.host,
        port=listen.port,
        http=GuardProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=bool(settings.identity.trusted_proxies),
        forwarded_allow_ips=settings.identity.trusted_proxies,
        timeout_graceful_shutdown=max(1, int(listen.grace)),
        ssl_certfile=listen.certificate or None,
        ssl_keyfile=listen.private_key or None,
        ssl_ca_certs=listen.client_authority or None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if listen.client_authority else ssl.CERT_NONE,
    )


def run(config: uvicorn.Config, main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in an event loop, that of uvloop if it is installed."""
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main)


def reload_on_hangup(app: GuardApp, read_again: ReadAgain) -> None:
    """Read the settings and the filter again at each SIGHUP, from now on."""
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        try:
            await app.guard.reload(read_again())
        except UserError as error:
            logger.error("not reloaded: %s", error)

    def begin() -> None:
        task = loop.create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, begin)


class GuardServer(uvicorn.Server):
    """A server whose guard knows that it shuts down, and which says where it listens."""

    def __init__(self, config: uvicorn.Config, app: GuardApp) -> None:
        super().__init__(config)
        self._app = app

    async def serve_or_fail(self) -> None:
        """Serve until a signal ends it.

        Raises
        ------
        GuardError
            If it cannot start.
        """
        try:
            await self.serve()
        except SystemExit:
            if self._app.failure:
                raise GuardError(self._app.failure) from None
            raise GuardError(cannot_listen(self.config.host, self.config.port)) from None
        if self._app.failure:
            raise GuardError(self._app.failure)

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Start, and write the address."""
        await super().startup(sockets)
        for listener in [] if self.should_exit else self.servers:
            for socket in listener.sockets:
                log_address(socket, bool(self.config.ssl_certfile))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop being ready; take requests for `Listen.drain` seconds more, then finish the open ones and exit."""
        guard = self._app.guard
        drain = guard.active.settings.listen.drain
        if not guard.draining and drain > 0:
            guard.draining = True
            asyncio.get_running_loop().call_later(drain, self._exit)
            return
        guard.draining = True
        self._exit()

    def _exit(self) -> None:
        self.should_exit = True


def cannot_listen(host: str, port: int) -> str:
    """Return the message about an address that cannot be used."""
    return f"listen: {host}:{port}: this address cannot be used"


def log_address(socket: Any, tls: bool) -> None:
    """Write the address of a listening socket to the log."""
    host, port = socket.getsockname()[:2]
    logger.info("listening on %s://%s:%d", "https" if tls else "http", host, port)
