"""The wire ``raw``: the body is an image file."""

from __future__ import annotations

from collections.abc import Sequence

from mifsim.defense.images import Pixels
from mifsim.guard.arrival import Sent
from mifsim.guard.message import Headers, Reply, Request
from mifsim.guard.wire.base import AnswerError, Confidences, Submission, Wire, as_confidences, shown_values
from mifsim.guard.wire.json_body import at_pointer, json_reply, new_reply, read_answer, under_pointer

TYPES = ("image/png", "image/jpeg", "image/webp")
DEFAULT_POINTER = "/predictions"


class JsonAnswers(Submission):
    """A request whose answers are JSON documents of any form, in which ``upstream.output`` is a JSON pointer."""

    def __init__(self, request: Request, images: list[Pixels], sent: Sequence[Sent], wire: Wire) -> None:
        super().__init__(request, images, sent)
        self._wire = wire

    @property
    def _pointer(self) -> str:
        return self._wire.output or DEFAULT_POINTER

    def confidences(self, reply: Reply) -> Confidences:
        """See `Submission`."""
        found = at_pointer(read_answer(reply), self._pointer)
        if not isinstance(found, list):
            raise AnswerError(f"what it has at {self._pointer!r} is no list")
        return as_confidences(found, len(self.images))

    def restricted(self, reply: Reply, labels: Sequence[int], shown: Confidences | None) -> Reply:
        """See `Submission`; only the place of the confidences remains of the document."""
        values = shown_values(labels, shown)
        found = at_pointer(read_answer(reply), self._pointer)
        single = not (isinstance(found, list) and found and isinstance(found[0], list))
        return json_reply(reply, under_pointer(self._pointer, values[0] if single else values))

    def answered(self, confidence: Confidences) -> Reply:
        """See `Submission`."""
        return new_reply(under_pointer(DEFAULT_POINTER, confidence))


class RawSubmission(JsonAnswers):
    """A request whose body is an image file."""

    def forwarded(self) -> Request:
        """Return the request with the judged image as a PNG file."""
        if self._wire.arrival.original:
            return self.request
        body = self._wire.arrival.to_file(self.images[0])
        return self.request.with_body(body, self.request.headers.with_one("content-type", "image/png"))


class Raw(Wire):
    """Wire of requests whose body is a PNG, JPEG or WebP file."""

    name = "raw"

    def claims(self, request: Request) -> bool:
        """Return whether the media type is that of an image."""
        return request.method == "POST" and request.headers.media_type().startswith("image/")

    def read(self, request: Request) -> Submission:
        """See `Wire`. The file's content decides its type, not its media type."""
        return RawSubmission(request, [self.arrival.from_file(request.body)], [request.body], self)

    def compose(self, images: Sequence[Pixels], path: str) -> Request:
        """See `Wire`; the request has one image."""
        (image,) = images
        return Request("POST", path, headers=Headers([("content-type", "image/png")]), body=self.arrival.to_file(image))
