"""The frames that workers send each other: a header of fixed size, and a payload."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import orjson

from mifsim.guard.ledger import Entry
from mifsim.guard.message import Headers, Reply, Request

REQUEST, REPLY, QUESTION, ANSWER, REPLACED, LEAVE = range(6)
"""Kinds of frames: a client's request and its reply; a question about the worker and its answer; the entry of a session
that has ended; and the last one."""

_HEADER = struct.Struct(">QIB")
_HEAD = struct.Struct(">I")

Parts = list[bytes]


def frame(kind: int, number: int, *parts: bytes) -> Parts:
    """Return the pieces of a frame.

    Parameters
    ----------
    kind : int
    number : int
        The sender's number of the question, or the number of the question that is answered; below 2^32.
    *parts : bytes
        The payload in pieces, so that the body of a request is not copied.
    """
    return [_HEADER.pack(sum(map(len, parts)), number, kind), *parts]


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield kind, number and payload of each frame that is complete."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER.size:
            length, number, kind = _HEADER.unpack_from(buffer, start)
            payload = start + _HEADER.size
            if len(buffer) - payload < length:
                break
            start = payload + length
            yield kind, number, bytes(memoryview(buffer)[payload:start])
        del buffer[:start]


def request_parts(client: bytes, request: Request, alone: bool, sent: float) -> Parts:
    """Return a client's request as the payload of a frame.

    Parameters
    ----------
    client, request, alone
        See `mifsim.guard.shards.Peers.ask`.
    sent : float
        Time of the machine's monotonic clock.
    """
    head = orjson.dumps(
        [
            request.method, request.path, request.query, list(request.headers), request.address, request.certificate,
            request.id, alone, sent, client.hex(),
        ]
    )  # fmt: skip
    return [_HEAD.pack(len(head)), head, request.body]


def read_request(payload: bytes) -> tuple[bytes, Request, bool, float]:
    """Return client, request, `alone` and `sent` of a payload; see `request_parts`."""
    head, body = _split(payload)
    method, path, query, headers, address, certificate, request_id, alone, sent, client = orjson.loads(head)
    request = Request(method, path, query, _headers(headers), body, address, certificate, request_id)
    return bytes.fromhex(client), request, alone, sent


def reply_parts(reply: Reply) -> Parts:
    """Return a reply as the payload of a frame."""
    head = orjson.dumps([reply.status, list(reply.headers)])
    return [_HEAD.pack(len(head)), head, reply.body]


def read_reply(payload: bytes) -> Reply:
    """Return the reply of a payload."""
    head, body = _split(payload)
    status, headers = orjson.loads(head)
    return Reply(status, _headers(headers), body)


def entry_part(entry: Entry) -> bytes:
    """Return an entry as the payload of a frame."""
    return orjson.dumps([entry.client.hex(), *entry[1:]])


def read_entry(payload: bytes) -> Entry:
    """Return the entry of a payload."""
    client, *rest = orjson.loads(payload)
    return Entry(bytes.fromhex(client), *rest)


def _split(payload: bytes) -> tuple[bytes, bytes]:
    (length,) = _HEAD.unpack_from(payload)
    return payload[_HEAD.size : _HEAD.size + length], payload[_HEAD.size + length :]


def _headers(pairs: list[list[str]]) -> Headers:
    return Headers.from_pairs([(name, value) for name, value in pairs])
