"""The ASGI application of a guard: it reads requests, and answers probes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
from dataclasses import replace
from urllib.parse import quote

from mifsim.guard.core import GuardService
from mifsim.guard.deadline import within
from mifsim.guard.garbage import search_less
from mifsim.guard.message import Headers, Reply, Request
from mifsim.guard.metrics import reply_of
from mifsim.guard.refusals import Refused
from mifsim.guard.upstream import Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

CHECK = "/check"
ID_HEADER = "x-request-id"
_RAW_ID_HEADER = ID_HEADER.encode()
_ID = re.compile(r"[\x21-\x7e]{1,128}")


class GuardApp:
    """The ASGI application of a guard.

    It answers ``/livez``, ``/readyz`` and their aliases of the Open Inference Protocol, ``/metrics`` and ``/check``
    itself. All other requests are for the model server.

    Parameters
    ----------
    guard : GuardService
    alone : bool
        Whether it only gives verdicts, and there is no model server.
    own_process : bool
        Whether its process does nothing else, so that it can decide how Python manages the memory.

    Attributes
    ----------
    failure : str
        Why the guard could not start; empty if it could.
    """

    def __init__(self, guard: GuardService, alone: bool = False, own_process: bool = False) -> None:
        self.guard = guard
        self._alone, self._own_process = alone, own_process
        self.failure = ""
        self._warming: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; see the ASGI specification."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self.serve(scope, receive, send)
        else:  # a websocket could carry images that the detector does not see
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def startup(self) -> None:
        """Start the guard; the detector is compiled meanwhile."""
        await self.guard.start()
        self._warming = asyncio.create_task(self._warm_up())

    async def _warm_up(self) -> None:
        try:
            await self.guard.warm_up()
        except Exception:
            logger.exception("the detector cannot be compiled; no request is taken")
        if self._own_process:
            search_less()

    async def shutdown(self) -> None:
        """Wait for open requests, and stop the guard."""
        if self._warming is not None:
            self._warming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._warming
        await self.guard.stop()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.startup()
        except Exception as error:
            self.failure = str(error)
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = request_of(scope)
        try:
            reply = await self._reply(request, receive)
        except Exception as error:
            reply = self.guard.failed(request, error)
        body = b"" if request.method == "HEAD" else reply.body
        fields = reply.headers.without(ID_HEADER, "content-length").to_asgi()
        fields += ((_RAW_ID_HEADER, request.id.encode()), (b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": reply.status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    async def _reply(self, request: Request, receive: Receive) -> Reply:
        if request.method in ("GET", "HEAD") and (status := await self._about_itself(request)) is not None:
            return status
        if self.guard.draining and not self._alone and self.guard.active.settings.listen.drain == 0:
            raise Refused("draining")
        if not request.path.startswith("/"):  # after the base URL, "@host/" would name another server
            raise Refused("not-judged")
        limits = self.guard.active.settings.limits
        try:
            body = await within(limits.body_seconds, _read_body(request, receive, limits.body_bytes))
        except TimeoutError:
            raise Refused("slow-body") from None
        request.body = body
        if request.path == CHECK or request.path.startswith(f"{CHECK}/"):
            return await self.guard.check(original_of(request))
        if self._alone:
            raise Refused("not-judged")
        return await self.guard.handle(request)

    async def _about_itself(self, request: Request) -> Reply | None:
        """Return the answer to a GET or HEAD request about the guard itself; None if it is another one."""
        if request.path in ("/livez", "/v2/health/live"):
            return _status(200, "live")
        if request.path in ("/readyz", "/v2/health/ready"):
            problem = await self.guard.problem()
            if not problem and self.guard.peers is not None:
                problem = await self.guard.peers.problem()
            return _status(503, problem) if problem else _status(200, "ready")
        if request.path == "/metrics" and self.guard.active.settings.listen.metrics:
            return await self._metrics()
        return None

    async def _metrics(self) -> Reply:
        if self.guard.peers is None:
            return self.guard.metrics.reply()
        samples = {**await self.guard.peers.samples(), self.guard.shard.worker: self.guard.metrics.samples()}
        return reply_of(samples)


def request_of(scope: Scope) -> Request:
    """Return the request of an ASGI scope, without its body."""
    headers = Headers.from_asgi(scope["headers"])
    given = headers.all(ID_HEADER)
    request_id = given[0] if len(given) == 1 and _ID.fullmatch(given[0]) else secrets.token_hex(16)
    raw_path = scope.get("raw_path")
    client = scope.get("client")
    tls = (scope.get("extensions") or {}).get("tls") or {}
    return Request(
        scope["method"],
        quote(scope["path"]) if raw_path is None else raw_path.partition(b"?")[0].decode("latin-1"),
        scope.get("query_string", b"").decode("latin-1"),
        headers.with_one(ID_HEADER, request_id),
        address=client[0] if client else "",
        certificate=tls.get("client_cert_name") or "",
        id=request_id,
    )


def original_of(request: Request) -> Request:
    """Return the request about which a proxy asks with ``/check``.

    Envoy puts the original path after its path prefix; Traefik names method and path in headers.

    Raises
    ------
    Refused
        If the proxy passed on only a part of the body, on which no verdict is possible.
    """
    if (request.headers.get("x-envoy-auth-partial-body") or "").lower() == "true":
        raise Refused("too-large", "the proxy passed on only a part of the body")
    path, query = request.path[len(CHECK) :] or "/", request.query
    if (uri := request.headers.get("x-forwarded-uri")) is not None and path == "/":
        path, _, query = uri.partition("?")
    method = request.headers.get("x-forwarded-method") or request.method
    return replace(request, method=method, path=path, query=query)


async def _read_body(request: Request, receive: Receive, most: int) -> bytes:
    """Return the body of a request.

    Raises
    ------
    Refused
        If it is too large, or the client hangs up before its end.
    """
    stated = request.headers.get("content-length")
    if stated is not None and stated.isdigit() and int(stated) > most:
        raise Refused("too-large", f"the body has more than {most:,} bytes")
    parts: list[bytes] = []
    size = 0
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("no-image", "the body is incomplete")
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise Refused("too-large", f"the body has more than {most:,} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _status(status: int, text: str) -> Reply:
    body = json.dumps({"status": text}).encode() + b"\n"
    return Reply(status, Headers([("content-type", "application/json")]), body)
