"""The model's answer to queries that were judged and counted, and what the client receives of it."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from mifsim.guard.active import Active
from mifsim.guard.keeper import Counted, Keeper
from mifsim.guard.message import Headers, Reply
from mifsim.guard.metrics import Metrics
from mifsim.guard.refusals import SESSION_HEADER, Refused
from mifsim.guard.upstream import Upstream
from mifsim.guard.wire.base import AnswerError, Confidences, Submission

logger = logging.getLogger(__name__)

OPEN_HEADER = "mifsim-guard"
"""Header of answers to queries that could not be counted durably, with the value ``open``."""
_CONDITIONAL = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range")
"""Headers with which a client can ask whether it knows the answer. The reply has another status, and is no answer."""
_OF_WHOLE_ANSWER = ("etag", "content-md5", "digest", "content-digest", "repr-digest")
"""Headers that depend on the whole answer. Those of a restricted one would be wrong, and tell something of the rest."""


class Asker:
    """Asks the model, and has queries undone that it does not answer.

    Parameters
    ----------
    upstream : Upstream or None
        None: there is no model, only verdicts.
    metrics : Metrics
    keeper : Keeper
    """

    def __init__(self, upstream: Upstream | None, metrics: Metrics, keeper: Keeper) -> None:
        self._upstream, self._metrics, self._keeper = upstream, metrics, keeper

    async def answer(self, active: Active, counted: Counted, submission: Submission, alone: bool) -> Reply:
        """Return what the client receives.

        Parameters
        ----------
        active : Active
            The settings when the request arrived.
        counted : Counted
            Its queries.
        submission : Submission
        alone : bool
            Whether only the verdict is asked for.

        Raises
        ------
        Refused
            If the model does not answer.
        """
        if alone:
            self._metrics.safe.inc(counted.queries)
            return _marked(Reply(200, Headers([(SESSION_HEADER, "open")])), counted)
        needs_answers = counted.uses_answers or active.deployment.policy.kind != "confidence"
        try:
            reply, confidence = await self._asked(active, submission, needs_answers)
        except BaseException:
            await self._unanswered(active, counted)
            raise
        if not reply.answered:
            await self._unanswered(active, counted)
            return reply
        counted.confidence = confidence
        if confidence is not None:
            labels = [int(label) for label in confidence.argmax(axis=1)]
            if counted.uses_answers:
                try:
                    await self._keeper.observe(counted.session, labels, confidence)
                except Refused:  # the client does not receive the answer
                    await self._unanswered(active, counted)
                    raise
            if active.deployment.policy.kind != "confidence":
                reply = submission.restricted(reply, labels, active.deployment.policy.shown(confidence))
                reply = replace(reply, headers=reply.headers.without(*_OF_WHOLE_ANSWER))
        self._metrics.safe.inc(counted.queries)
        return _marked(reply, counted)

    async def _unanswered(self, active: Active, counted: Counted) -> None:
        if active.settings.sessions.count_unanswered:
            self._metrics.safe.inc(counted.queries)
            return
        self._metrics.unanswered.inc(counted.queries)
        await self._keeper.undo(counted)

    async def _asked(
        self, active: Active, submission: Submission, needs_answers: bool
    ) -> tuple[Reply, Confidences | None]:
        """Return the model's answer in the client's wire, and its confidences if they are needed."""
        assert self._upstream is not None
        asked = submission if active.other_wire is None else _translated(submission, active)
        start = time.perf_counter()
        try:
            request = asked.forwarded()
            if (headers := request.headers.without(*_CONDITIONAL)) is not request.headers:
                request = request.with_body(request.body, headers)
            reply = await self._upstream.ask(request)
        finally:
            self._metrics.upstream_seconds.observe(time.perf_counter() - start)
        if not reply.answered or (asked is submission and not needs_answers):
            return reply, None
        try:
            confidence = asked.confidences(reply)
        except AnswerError as error:
            logger.error("the model server's answer cannot be read: %s", error)
            raise Refused("upstream-failed", "the model server's answer cannot be read") from None
        return reply if asked is submission else submission.answered(confidence), confidence


def _marked(reply: Reply, counted: Counted) -> Reply:
    """Return an answer that says whether its queries could not be counted durably."""
    return reply if counted.durable else replace(reply, headers=reply.headers.with_(**{OPEN_HEADER: "open"}))


def _translated(submission: Submission, active: Active) -> Submission:
    """Return a submission with the same images in the wire of the model server."""
    wire = active.other_wire
    assert wire is not None
    if wire.name == "raw" and len(submission.images) > 1:
        raise Refused("no-image", "this server takes one image in a request")
    request = wire.compose(submission.images, active.settings.upstream.path)
    kept = submission.request.headers.without("content-type", "inference-header-content-length")
    asked = wire.read(replace(request, headers=Headers([*kept, *request.headers])))
    if wire.name in ("raw", "multipart") and not _equal(asked, submission):
        raise Refused("no-image", "the model server takes files, which have 8 bits; the pixels have more")
    return asked


def _equal(one: Submission, other: Submission) -> bool:
    """Return whether the images of two submissions are equal to the bit."""
    return all(a.tobytes() == b.tobytes() for a, b in zip(one.images, other.images, strict=True))
