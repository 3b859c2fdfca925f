"""Responses to requests with images, each in a task.

Read the images, judge them, write the counts durably, ask the model, write the rows of the traffic log, and undo the
queries if there is no answer.
"""

from __future__ import annotations

import asyncio
import logging

from mifsim.guard.active import Active
from mifsim.guard.asking import Asker
from mifsim.guard.judging import THREAD_PIXELS
from mifsim.guard.keeper import Counted, Keeper
from mifsim.guard.message import Reply, Request
from mifsim.guard.metrics import Metrics
from mifsim.guard.refusals import Refused
from mifsim.guard.sessions import idempotency_key, request_digest
from mifsim.guard.traffic.log import TrafficLog
from mifsim.guard.wire.base import Submission, Wire

logger = logging.getLogger(__name__)


class Responder:
    """Responds to the requests of the clients that this process owns, each in a task of its own.

    The queries of one client follow each other; those of different clients do not wait.

    Parameters
    ----------
    keeper : Keeper
        Judges and counts the queries.
    asker : Asker
        Asks the model.
    log : TrafficLog or None
    metrics : Metrics

    Attributes
    ----------
    running : set of Task
        The requests that are judged or answered now.
    """

    def __init__(self, keeper: Keeper, asker: Asker, log: TrafficLog | None, metrics: Metrics) -> None:
        self._keeper, self._asker, self._log, self._metrics = keeper, asker, log, metrics
        self.running: set[asyncio.Task[None]] = set()

    async def wait(self, seconds: float) -> None:
        """Wait until all requests have their responses, but not longer."""
        if self.running:
            await asyncio.wait(self.running, timeout=seconds)

    def begin(self, client: bytes, request: Request, wire: Wire, alone: bool) -> asyncio.Future[Reply]:
        """Begin with a request, in a task that goes on if its client hangs up.

        The result is a future of its own: to cancel it does not cancel the task.

        Parameters
        ----------
        client : bytes
            Hash of the client's identity.
        request : Request
        wire : Wire
            That of the request.
        alone : bool
            Whether only the verdict is asked for.

        Raises
        ------
        Refused
            If there are too many requests, or its headers are not accepted.
        """
        if len(self.running) >= self._keeper.active.settings.limits.concurrent:
            raise Refused("overloaded")
        encodings = request.headers.all("content-encoding")
        if encodings and any(value.lower() != "identity" for value in encodings if value):
            raise Refused("wrong-type", "compressed bodies are not accepted")
        if len(request.headers.all("content-type")) > 1:  # the model server could read the body by the other one
            raise Refused("wrong-type", "the request has two content types")
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Reply] = loop.create_future()
        self.running.add(loop.create_task(self._run(reply, client, request, wire, alone)))
        return reply

    async def _run(
        self, result: asyncio.Future[Reply], client: bytes, request: Request, wire: Wire, alone: bool
    ) -> None:
        """Respond, and tell who waits for the reply, if anybody still does."""
        try:
            reply = await self._respond(client, request, wire, alone)
        except asyncio.CancelledError:
            result.cancel()
            raise
        except Exception as error:
            if not isinstance(error, Refused):
                logger.error("a request failed", exc_info=error)
            elif error.reason == "no-image":
                self._metrics.invalid.inc()
            if not result.done():
                result.set_exception(error)
        else:
            if not result.done():
                result.set_result(reply)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self.running.discard(task)

    async def _respond(self, client: bytes, request: Request, wire: Wire, alone: bool) -> Reply:
        active = self._keeper.active
        key = idempotency_key(request)
        digest = b"" if key is None else request_digest(request) + bytes([alone])
        # A body of many bytes may take milliseconds to decode.
        large = len(request.body) > THREAD_PIXELS
        submission = await asyncio.to_thread(wire.read, request) if large else wire.read(request)
        session = self._keeper.table.get(client)
        if session.waiting >= active.settings.limits.waiting:
            raise Refused("overloaded")
        session.waiting += 1  # no await since `get`, so the session is still in the table
        try:
            async with session.lock:
                if key is not None:
                    await self._keeper.enter(client, session)  # a blocked client gets no kept answer
                    if (kept := session.repeated(key, digest)) is not None:
                        return kept
                if self._log is not None and self._log.problem:
                    raise Refused("log-failed")
                counted = await self._keeper.count(client, session, submission.images)
                # The next query waits for the answer, if this one may be undone or its answer is observed.
                # One with a key waits, too: its repetition must find the kept answer.
                undoes = not active.settings.sessions.count_unanswered
                in_order = counted.uses_answers or undoes or key is not None
                if counted.blocked is not None:
                    self._add_to_log(active, counted, submission, wire)
                    raise counted.blocked
                if in_order:
                    try:
                        reply = await self._asker.answer(active, counted, submission, alone)
                    finally:
                        self._add_to_log(active, counted, submission, wire)
                else:  # it is counted in any case, and the answers of a session may overtake each other
                    self._add_to_log(active, counted, submission, wire)
            if not in_order:
                reply = await self._asker.answer(active, counted, submission, alone)
            if reply.answered:
                session.keep(key, digest, reply, active.settings.limits.idempotency_keys)
            return reply
        finally:
            self._keeper.settle(session)  # also after a refusal: new clients must not fill the memory
            session.waiting -= 1

    def _add_to_log(self, active: Active, counted: Counted, submission: Submission, wire: Wire) -> None:
        if self._log is not None:
            self._log.add(active, counted, submission, wire.arrival, self._keeper.configs)
