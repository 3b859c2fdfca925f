"""The guard inside a user's own ASGI application."""

from __future__ import annotations

import asyncio
from typing import Any

from mifsim.guard.app import GuardApp
from mifsim.guard.config import GuardConfig
from mifsim.guard.core import GuardService
from mifsim.guard.ledger import Ledger
from mifsim.guard.upstream import AsgiApp, AsgiUpstream, Message, Receive, Scope, Send


class GuardMiddleware:
    """ASGI middleware that puts a calibrated detector before an application.

    The application receives requests whose images were judged, and those that ``upstream.unjudged`` names. It must run
    in one process: in several of them, a client that reaches one after the other makes them forget its images (though
    not its counts). ``mifsim guard --workers`` gives each client one process.

    Parameters
    ----------
    app : callable
        An ASGI application, such as one of Starlette or FastAPI.
    config : GuardConfig
        Its ``[upstream]`` table needs no URL.
    ledger : Ledger or None
        None: that of the settings.

    Raises
    ------
    GuardError, ConfigError
        If the settings are not valid, or contradict what the filter was certified for.

    Examples
    --------
    ::

        app = GuardMiddleware(app, GuardConfig.load("guard.toml"))
    """

    def __init__(self, app: AsgiApp, config: GuardConfig, ledger: Ledger | None = None) -> None:
        self._app = app
        self._served = GuardApp(GuardService(config, AsgiUpstream(app, config.upstream.timeout), ledger))

    @property
    def guard(self) -> GuardService:
        """The guard."""
        return self._served.guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; see the ASGI specification."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._served(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start the guard before the application, and stop it after it."""
        await receive()
        try:
            await self._served.startup()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        inner = _Lifespan(self._app, dict(scope))
        failure = await inner.startup()
        if failure is not None:
            await self._served.shutdown()
            await send({"type": "lifespan.startup.failed", "message": failure})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._served.shutdown()
        await inner.shutdown()
        await send({"type": "lifespan.shutdown.complete"})


class _Lifespan:
    """Start and end of an application; one that does not support them is used as it is."""

    def __init__(self, app: AsgiApp, scope: dict[str, Any]) -> None:
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._task = asyncio.ensure_future(self._run(app, scope))

    async def _run(self, app: AsgiApp, scope: dict[str, Any]) -> None:
        await app(scope, self._to_app.get, self._from_app.put)

    async def startup(self) -> str | None:
        """Start the application; return the message if this fails."""
        message = await self._exchange("lifespan.startup")
        if message is not None and message["type"] == "lifespan.startup.failed":
            return str(message.get("message", "")) or "the application could not start"
        return None

    async def shutdown(self) -> None:
        """End the application."""
        await self._exchange("lifespan.shutdown")

    async def _exchange(self, kind: str) -> Message | None:
        if self._task.done():
            return None
        await self._to_app.put({"type": kind})
        answer = asyncio.ensure_future(self._from_app.get())
        await asyncio.wait({self._task, answer}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        self._task.exception()  # retrieved, so that it is not reported: the application does not support lifespans
        return None
