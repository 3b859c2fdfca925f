"""Model servers: one behind HTTP, or an ASGI application in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol
from urllib.parse import unquote

import aiohttp
from yarl import URL

from mifsim.guard.deadline import within
from mifsim.guard.message import Headers, Reply, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.tables import Upstream as Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_PART = 64 * 1024
_KEEP_ALIVE = 4.0
"""Seconds. Shorter than the time after which usual servers close an idle connection."""


class Upstream(Protocol):
    """A model server."""

    async def open(self) -> None:
        """Prepare."""

    async def close(self) -> None:
        """Close all connections."""

    async def ask(self, request: Request) -> Reply:
        """Return the answer to a request.

        Raises
        ------
        Refused
            If there is none: ``upstream-failed`` or ``upstream-slow``.
        """


class HttpUpstream:
    """A model server behind HTTP.

    Parameters
    ----------
    settings : Upstream
        The ``[upstream]`` table.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """See `Upstream`."""
        settings = self._settings
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=settings.connections, keepalive_timeout=_KEEP_ALIVE),
            timeout=aiohttp.ClientTimeout(total=settings.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),  # cookies of one client must not be sent for another
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def close(self) -> None:
        """See `Upstream`."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, request: Request) -> Reply:
        """See `Upstream`. Redirects are not followed; they are no answers."""
        try:
            try:
                return await self._once(request)
            except aiohttp.ServerDisconnectedError:
                # The server closed an idle connection while the request was on its way. Asking twice does no harm.
                return await self._once(request)
        except TimeoutError:
            raise Refused("upstream-slow") from None
        except (aiohttp.ClientError, ValueError, OSError):
            raise Refused("upstream-failed") from None

    async def _once(self, request: Request) -> Reply:
        assert self._session is not None
        most = self._settings.answer_bytes
        url = URL(self._settings.url + request.target, encoded=True)
        kept = request.headers.end_to_end().without("host", "expect")
        headers = list(kept.with_(accept_encoding="identity"))  # the answer must be readable
        async with self._session.request(
            request.method, url, data=request.body or None, headers=headers, allow_redirects=False
        ) as response:
            body = bytearray()
            async for part in response.content.iter_chunked(_PART):
                body += part
                if len(body) > most:
                    raise Refused("upstream-failed", f"the model server's answer has more than {most:,} bytes")
            fields = Headers.from_asgi(response.raw_headers)
            return Reply(response.status, fields.end_to_end(), bytes(body))


class AsgiUpstream:
    """An ASGI application in this process.

    Parameters
    ----------
    app : callable
    timeout : float
        Seconds.
    """

    def __init__(self, app: AsgiApp, timeout: float) -> None:
        self._app, self._timeout = app, timeout

    async def open(self) -> None:
        """Do nothing: the application's lifespan is that of the server."""

    async def close(self) -> None:
        """Do nothing."""

    async def ask(self, request: Request) -> Reply:
        """See `Upstream`."""
        headers = request.headers.end_to_end().to_asgi()  # without the client's length
        headers.append((b"content-length", b"%d" % len(request.body)))
        inner: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": _unquoted(request.path),
            "raw_path": request.path.encode("latin-1"),
            "query_string": request.query.encode("latin-1"),
            "root_path": "",
            "headers": headers,
            "client": (request.address, 0) if request.address else None,
            "server": None,
            "state": {},
        }
        exchange = _Exchange(request.body)
        try:
            await within(self._timeout, _called(self._app, inner, exchange))
        except TimeoutError:
            raise Refused("upstream-slow") from None
        except Exception as error:
            raise Refused("upstream-failed") from error
        if not exchange.complete:
            raise Refused("upstream-failed", "the application sent no complete answer")
        return exchange.reply()


async def _called(app: AsgiApp, scope: Scope, exchange: _Exchange) -> None:
    await app(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, body: bytes) -> None:
        self._sent, self._request = False, body
        self.status, self.complete = 500, False
        self._headers: Iterable[tuple[bytes, bytes]] = ()
        self._parts: list[bytes] = []

    async def receive(self) -> Message:
        """Return the request's body, once."""
        if self._sent:
            await asyncio.Event().wait()  # the client does not disconnect before the answer
        self._sent = True
        return {"type": "http.request", "body": self._request, "more_body": False}

    async def send(self, message: Message) -> None:
        """Collect the answer."""
        if message["type"] == "http.response.start":
            self.status, self._headers = message["status"], message.get("headers", ())
        elif message["type"] == "http.response.body":
            self._parts.append(message.get("body", b""))
            self.complete = not message.get("more_body", False)

    def reply(self) -> Reply:
        """Return the complete answer."""
        return Reply(self.status, Headers.from_asgi(self._headers).end_to_end(), b"".join(self._parts))


def _unquoted(path: str) -> str:
    return unquote(path) if "%" in path else path
