"""Evasions in the transport: however a request is sent, it is judged and counted once, or refused.

The requests reach a guard over real connections. Each case states the statuses of the answers and the number of counted
queries of the client ``ann``; the model must have received just as many images, and nobody else may be in the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from mifsim.defense.quota import QuotaConfig
from mifsim.testing.streams import image_pool
from tests.guard.guards import PATH, SHAPE, request_for
from tests.guard.served import Served

POOL = image_pool(SHAPE)
BODY = request_for(POOL[0]).body
LIMIT = 60_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = Served(
        tmp_path_factory.mktemp("guard"),
        config=QuotaConfig(queries=10_000),
        limits={"body_bytes": LIMIT, "body_seconds": 0.5},
        sessions={"max_queries": 10_000},
        uncertified=True,
        upstream={"unjudged": ["POST /feedback/*", "POST /v1/*"]},
    )
    yield running
    running.stop()


def request(
    *headers: str,
    line: str = f"POST {PATH} HTTP/1.1",
    body: bytes = BODY,
    length: bool = True,
    user: str = "X-User: ann",
) -> bytes:
    """Return the bytes of a request."""
    fields = ["Host: x", "Content-Type: application/json", *([user] if user else []), *headers]
    if length:
        fields.append(f"Content-Length: {len(body)}")
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1") + body


def chunked(*parts: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    chunks = [b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts]
    return b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


def at(path: str, method: str = "POST") -> bytes:
    return request(line=f"{method} {path} HTTP/1.1")


CHUNKED = "Transfer-Encoding: chunked"
HALF = len(BODY) // 2
PARTS = (BODY[:HALF], BODY[HALF:])
INNER = request()


class Case(NamedTuple):
    """What is sent over one connection, the statuses of the answers, and the counted queries of ``ann``."""

    sent: tuple[bytes, ...]
    statuses: list[int]
    queries: int


CASES = {
    # Identities
    "two identities": Case((request("X-User: eve"),), [401], 0),
    "the same identity twice": Case((request("x-user: ann"),), [401], 0),
    "an underscore": Case((request(user="X_User: ann"),), [401], 0),
    "an identity and one with an underscore": Case((request("X_User: eve"),), [200], 1),
    "no identity": Case((request(user=""),), [401], 0),
    "an empty identity": Case((request(user="X-User:   "),), [401], 0),
    "another case": Case((request(user="x-USER: ann"),), [200], 1),
    "white space around the value": Case((request(user="X-User: \t ann \t"),), [200], 1),
    "white space before the colon": Case((request(user="X-User : ann"),), [400], 0),
    "white space before the name": Case((request(user=" X-User: ann"),), [400], 0),
    "a folded line": Case((request(user="X-User: a\r\n nn"),), [400], 0),
    "a NUL in the value": Case((request(user="X-User: ann\0"),), [400], 0),
    "the identity as a header of the connection": Case((request("Connection: X-User"),), [200], 1),
    "an identity in the trailer": Case(
        (request(CHUNKED, "Trailer: X-User", length=False, body=chunked(*PARTS, trailer=b"X-User: eve\r\n")),), [200], 1
    ),
    "an identity in the trailer only": Case(
        (request(CHUNKED, user="", length=False, body=chunked(*PARTS, trailer=b"X-User: ann\r\n")),), [401], 0
    ),
    # Bodies
    "chunks": Case((request(CHUNKED, length=False, body=chunked(*PARTS)),), [200], 1),
    "chunks of a byte": Case(
        (request(CHUNKED, length=False, body=chunked(*(BODY[i : i + 1] for i in range(len(BODY))))),), [200], 1
    ),
    "chunks with extensions": Case(
        (request(CHUNKED, length=False, body=chunked(*PARTS, extension=b";a=b")),), [200], 1
    ),
    "chunks and a length": Case((request(CHUNKED, body=chunked(*PARTS)),), [400], 0),
    "a length and chunks": Case(
        (request(length=True, body=chunked(*PARTS)).replace(b"\r\n\r\n", b"\r\n" + CHUNKED.encode() + b"\r\n\r\n", 1),),
        [400],
        0,
    ),
    "another transfer encoding": Case(
        (request("Transfer-Encoding: xchunked", length=False, body=chunked(*PARTS)),), [400], 0
    ),
    "two lengths": Case((request("Content-Length: 5"),), [400], 0),
    "a signed length": Case((request(f"Content-Length: +{len(BODY)}", length=False),), [400], 0),
    "a negative length": Case((request("Content-Length: -1", length=False),), [400], 0),
    "no length": Case((request(length=False),), [400], 0),
    "a request in the body": Case((request(body=INNER),), [400], 0),
    "a request in a chunk": Case((request(CHUNKED, length=False, body=chunked(INNER)),), [400], 0),
    "a large stated length": Case((request(f"Content-Length: {LIMIT + 1}", length=False, body=b""),), [413], 0),
    "a large body in chunks": Case((request(CHUNKED, length=False, body=chunked(*[b" " * 4000] * 16)),), [413], 0),
    "a body that stops": Case((request()[:-10],), [408], 0),
    "many small packets": Case(tuple(INNER[i : i + 97] for i in range(0, len(INNER), 97)), [200], 1),
    "expectation": Case((request("Expect: 100-continue"),), [200], 1),
    "a compressed body": Case((request("Content-Encoding: gzip"),), [415], 0),
    "two content encodings": Case((request("Content-Encoding: identity", "Content-Encoding: gzip"),), [415], 0),
    "two content types": Case((request("Content-Type: multipart/form-data; boundary=x"),), [415], 0),
    # Connections
    "pipelined requests": Case((INNER * 3,), [200] * 3, 3),
    "keep-alive": Case((INNER, INNER), [200] * 2, 2),
    "HTTP/1.0": Case((request(line=f"POST {PATH} HTTP/1.0"),), [200], 1),
    "an upgrade": Case((request("Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),), [400], 0),
    # Targets and methods
    "an absolute target": Case((at(f"http://other.example{PATH}"),), [200], 1),
    "a query": Case((at(f"{PATH}?a=%00&x-user=eve"),), [200], 1),
    "an escaped colon": Case((at("/v1/models/m%3Apredict"),), [404], 0),
    "an escaped letter": Case((at("/v1/models/m:%70redict"),), [404], 0),
    "an escaped slash": Case((at("/v1%2Fmodels/m:predict"),), [404], 0),
    "two slashes": Case((at("//v1/models/m:predict"),), [404], 0),
    "two slashes inside": Case((at("/v1//models/m:predict"),), [404], 0),
    "dots": Case((at("/feedback/../v1/models/m:predict"),), [404], 0),
    "escaped dots": Case((at("/feedback/%2e%2e/v1/models/m:predict"),), [404], 0),
    "escaped dots and slashes": Case((at("/feedback/..%2fv1%2fmodels%2fm:predict"),), [404], 0),
    "a backslash": Case((at("/feedback/..\\v1/models/m:predict"),), [404], 0),
    "a parameter of the path": Case((at("/v1/models/m:predict;x"),), [404], 0),
    "an escaped description": Case((at("/v1/models/m%3Apredict", "GET"),), [404], 0),
    "a description of another path": Case((at("/v1/models/..%2f..%2fpredict", "GET"),), [404], 0),
    "PUT": Case((at(PATH, "PUT"),), [404], 0),
    "OPTIONS": Case((at(PATH, "OPTIONS"),), [404], 0),
    "GET": Case((at(PATH, "GET"),), [404], 0),
    "a method in lower case": Case((at(PATH, "post"),), [400], 0),
    "another method in a header": Case((request("X-HTTP-Method-Override: GET"),), [200], 1),
}


@pytest.mark.parametrize("name", CASES)
def test_a_request_is_judged_and_counted_once_or_refused(name: str, served: Served) -> None:
    case = CASES[name]
    before, received, asked = served.queries(), len(served.model.received), len(served.model.requests)
    assert served.exchange(*case.sent, answers=len(case.statuses)) == case.statuses
    assert served.queries() - before == case.queries
    assert len(served.model.received) - received == case.queries
    assert len(served.model.requests) - asked == case.queries  # nothing is passed on beside it
    assert served.clients() <= 1


def test_head_is_refused_without_a_body(served: Served) -> None:
    before = served.queries()
    assert served.exchange(at(PATH, "HEAD")) == [404]
    assert served.queries() == before


def test_a_client_that_hangs_up_within_a_body_is_not_counted_and_after_it_is(served: Served) -> None:
    before = served.queries()
    served.exchange(INNER[:-5], hang_up=True)
    assert served.exchange(INNER) == [200]
    assert served.queries() == before + 1
    served.exchange(INNER, hang_up=True)
    end = time.monotonic() + 60
    while served.queries() == before + 1 and time.monotonic() < end:
        time.sleep(0.002)
    assert served.queries() == before + 2


def test_requests_of_several_clients_on_one_connection_are_counted_for_each(served: Served) -> None:
    users = ["ann", "bob", "ann", "cat", "bob"]
    before = {user: served.queries(user) for user in users}
    sent = b"".join(request(user=f"X-User: {user}") for user in users)
    assert served.exchange(sent, answers=5) == [200] * 5
    assert {user: served.queries(user) - before[user] for user in users} == {"ann": 2, "bob": 2, "cat": 1}
