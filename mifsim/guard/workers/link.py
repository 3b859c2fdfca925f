"""The connection between two workers: each asks the other, many questions at a time."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import Any, cast

import orjson

from mifsim.guard.core import GuardService
from mifsim.guard.ledger import Entry
from mifsim.guard.message import Reply, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.workers.frames import (
    ANSWER,
    LEAVE,
    QUESTION,
    REPLACED,
    REPLY,
    REQUEST,
    Frames,
    entry_part,
    frame,
    read_entry,
    read_reply,
    read_request,
    reply_parts,
    request_parts,
)

logger = logging.getLogger(__name__)

PROBLEM, SAMPLES, PING = b"problem", b"samples", b"ping"
BEAT_SECONDS = 1.0
MISSED_BEATS = 5
"""Beats without a sign of the other worker after which its clients get 503."""


class Link(asyncio.Protocol):
    """One end of the connection between two workers.

    Parameters
    ----------
    guard : GuardService
        That of this worker, which answers the other one's questions.
    ended : callable
        Called with this link when the connection has ended.

    Attributes
    ----------
    left : asyncio.Event
        Set when the other worker asks nothing any more.
    """

    def __init__(self, guard: GuardService, ended: Callable[[Link], None]) -> None:
        self.left = asyncio.Event()
        self._guard, self._ended = guard, ended
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0
        self._heard, self._missed = True, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)  # those of uvloop have another base class

    def connection_lost(self, error: Exception | None) -> None:
        """Refuse everything that waits for an answer; see `asyncio.Protocol`."""
        self._transport = None
        self.left.set()
        self._give_up()
        self._ended(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._heard, self._missed = True, 0
        for kind, number, payload in self._frames.feed(data):
            if kind == REQUEST:
                self._serve(number, payload)
            elif kind in (REPLY, ANSWER):
                question = self._questions.pop(number, None)
                if question is not None and not question.done():
                    question.set_result(read_reply(payload) if kind == REPLY else payload)
            elif kind == QUESTION:
                task = asyncio.get_running_loop().create_task(self._tell(number, payload))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif kind == REPLACED:
                self._guard.session_replaced(read_entry(payload))
            elif kind == LEAVE:
                self.left.set()

    async def ask(self, client: bytes, request: Request, alone: bool) -> Reply:
        """Return the other worker's reply to the request of one of its clients; see `Peers.ask`."""
        reply = await self._asked(REQUEST, *request_parts(client, request, alone, time.monotonic()))
        assert isinstance(reply, Reply)
        return reply

    async def question(self, text: bytes) -> bytes:
        """Return the other worker's answer to a question about itself.

        Raises
        ------
        Refused
            If it does not answer.
        """
        try:
            async with asyncio.timeout(BEAT_SECONDS * MISSED_BEATS):
                answer = await self._asked(QUESTION, text)
        except TimeoutError:
            raise Refused("owner-failed") from None
        assert isinstance(answer, bytes)
        return answer

    def replaced(self, entry: Entry) -> None:
        """Tell the other worker of a session that has ended."""
        self._send(frame(REPLACED, 0, entry_part(entry)))

    def leave(self) -> None:
        """Tell the other worker that this one asks nothing any more."""
        self._send(frame(LEAVE, 0))

    def beat(self) -> None:
        """Notice that the other worker does not answer, as when its process is stopped; to be called regularly."""
        silent = self._missed >= MISSED_BEATS
        if not (self._questions or silent):
            self._heard, self._missed = True, 0
            return
        if not self._heard:
            self._missed += 1
            if self._missed == MISSED_BEATS:
                logger.error("a worker does not answer; its clients get 503")
                self._give_up()
        self._heard = False
        self._send(frame(QUESTION, 0, PING))  # its answer has no question, but is a sign

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    async def _asked(self, kind: int, *parts: bytes) -> Any:
        if self._transport is None or self._missed >= MISSED_BEATS:
            raise Refused("owner-failed")
        self._number = number = self._number % 0xFFFFFFFF + 1
        question = self._questions[number] = asyncio.get_running_loop().create_future()
        self._send(frame(kind, number, *parts))
        try:
            return await question
        finally:
            self._questions.pop(number, None)

    def _send(self, parts: list[bytes]) -> None:
        if self._transport is not None:
            self._transport.writelines(parts)

    def _give_up(self) -> None:
        for question in self._questions.values():
            if not question.done():
                question.set_exception(Refused("owner-failed"))
        self._questions.clear()

    def _serve(self, number: int, payload: bytes) -> None:
        """Begin with the request of a client of this worker."""
        client, request, alone, sent = read_request(payload)
        if time.monotonic() - sent > BEAT_SECONDS * MISSED_BEATS:
            return  # the other worker has refused it meanwhile, so the client may have sent it again
        try:
            reply = self._guard.begin_own(client, request, alone)
        except Exception as error:
            self._reply(number, self._guard.failed(request, error))
        else:
            reply.add_done_callback(functools.partial(self._served, number, request))

    def _served(self, number: int, request: Request, reply: asyncio.Future[Reply]) -> None:
        if reply.cancelled():
            return  # the process ends
        error = reply.exception()
        self._reply(number, reply.result() if error is None else self._guard.failed(request, error))

    def _reply(self, number: int, reply: Reply) -> None:
        self._send(frame(REPLY, number, *reply_parts(reply)))

    async def _tell(self, number: int, question: bytes) -> None:
        answer = b""
        if question == PROBLEM:
            answer = (await self._guard.problem()).encode()
        elif question == SAMPLES:
            answer = orjson.dumps(self._guard.metrics.samples())
        self._send(frame(ANSWER, number, answer))
