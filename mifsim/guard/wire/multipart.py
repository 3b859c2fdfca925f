"""The wire ``multipart``: a form whose files are images (RFC 7578)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mifsim.defense.images import Pixels
from mifsim.guard.message import Headers, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire.base import Submission, Wire
from mifsim.guard.wire.raw import JsonAnswers

TYPE = "multipart/form-data"
MOST_PARTS = 1024

# It writes a line for each wrong byte of a form, with which a client could fill the guard's own log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class Part(NamedTuple):
    """One part of a form: the names that its header states, and its content."""

    name: str
    file_name: str | None
    content: bytes


def read_form(content_type: str, body: bytes) -> list[Part]:
    """Return the parts of a form.

    Raises
    ------
    Refused
        If it is not valid.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise Refused("no-image", "the content type has no boundary")
    reader = _Reader(boundary)
    try:
        reader.parser.write(body)
        reader.parser.finalize()
    except (FormParserError, ValueError, UnicodeDecodeError) as error:
        raise Refused("no-image", f"the form cannot be read: {error}") from None
    if not reader.ended:
        raise Refused("no-image", "the form is truncated")
    return reader.parts


def write_form(parts: Sequence[tuple[Part, str | None]]) -> tuple[str, bytes]:
    """Return the content type and the body of a form; each part comes with its media type, if it has one."""
    boundary = secrets.token_hex(16)
    found = []
    for part, media_type in parts:
        disposition = f'form-data; name="{_quoted(part.name)}"'
        if part.file_name is not None:
            disposition += f'; filename="{_quoted(part.file_name)}"'
        found.append(f"--{boundary}\r\ncontent-disposition: {disposition}\r\n".encode())
        if media_type is not None:
            found.append(f"content-type: {media_type}\r\n".encode())
        found.append(b"\r\n" + part.content + b"\r\n")
    found.append(f"--{boundary}--\r\n".encode())
    return f"{TYPE}; boundary={boundary}", b"".join(found)


class _Reader:
    """Collects the parts of a form."""

    def __init__(self, boundary: bytes) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._field, self._value, self._content = bytearray(), bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": lambda data, start, end: self._content.extend(data[start:end]),
                "on_part_end": self._end_part,
                "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_end": self._end,
            },
        )

    def _begin(self) -> None:
        self._headers, self._content = {}, bytearray()

    def _end(self) -> None:
        self.ended = True

    def _end_header(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _end_part(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise ValueError("a part has no name")
        if b"content-transfer-encoding" in self._headers:
            raise ValueError("a part has a transfer encoding")
        if len(self.parts) == MOST_PARTS:
            raise ValueError(f"more than {MOST_PARTS} parts")
        file_name = options.get(b"filename")
        self.parts.append(
            Part(options[b"name"].decode(), None if file_name is None else file_name.decode(), bytes(self._content))
        )


class MultipartSubmission(JsonAnswers):
    """A form with one or more image files."""

    def __init__(self, request: Request, images: list[Pixels], wire: Wire, parts: list[Part]) -> None:
        super().__init__(request, images, [part.content for part in parts if part.file_name is not None], wire)
        self._parts = parts

    def forwarded(self) -> Request:
        """Return the form with the judged images as PNG files."""
        if self._wire.arrival.original:
            return self.request
        files = iter(self.images)
        parts: list[tuple[Part, str | None]] = [
            (part, None)
            if part.file_name is None
            else (part._replace(content=self._wire.arrival.to_file(next(files))), "image/png")
            for part in self._parts
        ]
        content_type, body = write_form(parts)
        return self.request.with_body(body, self.request.headers.with_(content_type=content_type))


class Multipart(Wire):
    """Wire of forms. Every file in a form is an image; fields without a file name are passed on."""

    name = "multipart"

    def claims(self, request: Request) -> bool:
        """See `Wire`."""
        return request.method == "POST" and request.headers.media_type() == TYPE

    def read(self, request: Request) -> Submission:
        """See `Wire`."""
        parts = read_form(request.headers.get("content-type") or "", request.body)
        files = [part for part in parts if part.file_name is not None]
        if not 1 <= len(files) <= self.batch:
            raise Refused("no-image", f"the form has {len(files)} files; accepted: 1 to {self.batch}")
        return MultipartSubmission(request, [self.arrival.from_file(part.content) for part in files], self, parts)

    def compose(self, images: Sequence[Pixels], path: str) -> Request:
        """See `Wire`."""
        parts: list[tuple[Part, str | None]] = [
            (Part("file", f"{number}.png", self.arrival.to_file(image)), "image/png")
            for number, image in enumerate(images)
        ]
        content_type, body = write_form(parts)
        return Request("POST", path, headers=Headers([("content-type", content_type)]), body=body)


def _quoted(text: str) -> str:
    """Return a name for a header, escaped as browsers do."""
    return text.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22").replace("\\", "%5C")
