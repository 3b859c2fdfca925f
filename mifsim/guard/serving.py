"""The server process of ``mifsim guard``: uvicorn, its signals, and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import ssl
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from mifsim.errors import GuardError, UserError
from mifsim.guard.app import GuardApp
from mifsim.guard.config import GuardConfig
from mifsim.guard.core import GuardService
from mifsim.guard.http_protocol import GuardProtocol
from mifsim.guard.upstream import HttpUpstream

logger = logging.getLogger(__name__)


def serve(settings: GuardConfig, alone: bool, read_again: Callable[[], GuardConfig]) -> None:
    """Run a guard until SIGTERM or SIGINT. SIGHUP reads the settings and the filter again.

    Parameters
    ----------
    settings : GuardConfig
    alone : bool
        Whether it only gives verdicts.
    read_again : callable
        Returns the settings as they are now; it may raise `UserError`.

    Raises
    ------
    GuardError
        If the guard cannot start.
    """
    if not alone and not settings.upstream.url:
        raise GuardError("upstream.url: missing (expected the URL of the model server, such as http://127.0.0.1:8501)")
    app = GuardApp(GuardService(settings, None if alone else HttpUpstream(settings.upstream)), alone)
    listen = settings.listen
    config = uvicorn.Config(
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
    asyncio.run(_run(_Server(config, app), app, read_again))


async def _run(server: _Server, app: GuardApp, read_again: Callable[[], GuardConfig]) -> None:
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

    with contextlib.suppress(NotImplementedError):  # Windows has no SIGHUP
        loop.add_signal_handler(signal.SIGHUP, begin)
    try:
        await server.serve()
    except SystemExit:
        if app.failure:
            raise GuardError(app.failure) from None
        raise GuardError(f"listen: {server.config.host}:{server.config.port}: this address cannot be used") from None
    if app.failure:
        raise GuardError(app.failure)


class _Server(uvicorn.Server):
    """A server whose guard knows that it shuts down, and which says where it listens."""

    def __init__(self, config: uvicorn.Config, app: GuardApp) -> None:
        super().__init__(config)
        self._guard = app.guard

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Start, and write the address."""
        await super().startup(sockets)
        for listener in [] if self.should_exit else self.servers:
            for socket in listener.sockets:
                host, port = socket.getsockname()[:2]
                scheme = "https" if self.config.ssl_certfile else "http"
                logger.info("listening on %s://%s:%d", scheme, host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop being ready; take requests for `Listen.drain` seconds more, then finish the open ones and exit."""
        drain = self._guard.active.settings.listen.drain
        if not self._guard.draining and drain > 0:
            self._guard.draining = True
            asyncio.get_running_loop().call_later(drain, self._exit)
            return
        self._guard.draining = True
        self._exit()

    def _exit(self) -> None:
        self.should_exit = True
