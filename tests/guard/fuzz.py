"""Fuzzed requests: bodies and media types that are almost those of a wire, and random ones.

``python -m tests.guard.fuzz --bodies 1000000`` reads this many with each wire (``make guard-fuzz``). A wire must read
or refuse each of them: another error is a crash. What it accepts must be valid images that it can pass on.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from mifsim.defense.quota import QuotaConfig
from mifsim.guard.ledger.memory import MemoryLedger
from mifsim.guard.message import Headers, Request
from mifsim.guard.refusals import Refused
from mifsim.guard.wire import WIRES, wire_class
from mifsim.guard.wire.base import Wire
from mifsim.guard.wire.multipart import Part, write_form
from mifsim.guard.wire.npy import write_npy
from tests.guard.guards import Model, settings, started, write_filter
from tests.guard.test_wires import PATHS, arrival_of, images_of

SHAPE = (6, 5)
LENGTH = "inference-header-content-length"
Mutation = Callable[[bytes, random.Random], bytes]

_TOKENS = (
    b"NaN", b"-Infinity", b"1e400", b"-1", b"9" * 25, b"0.5", b"1e-400", b"true", b"null", b'"x"', b"{}", b"[]",
    b"\xff\xfe", b"\xed\xa0\x80", b"\0", b"\\ud800", b'{"b64":"AA=="}', b"\r\n\r\n", b"\r\n--", b"--\r\n", b"'", b"(",
    b"}", b"[" * 400, b'{"a":' * 300, b"Content-Transfer-Encoding: base64\r\n", b'filename="a.png"',
    b"filename*=utf-8''%ff", b"18446744073709551616",
)  # fmt: skip


def flip(body: bytes, rng: random.Random) -> bytes:
    """Flip one bit."""
    place = rng.randrange(len(body))
    return body[:place] + bytes([body[place] ^ 1 << rng.randrange(8)]) + body[place + 1 :]


def cut(body: bytes, rng: random.Random) -> bytes:
    """Truncate, or remove some bytes."""
    place = rng.randrange(len(body))
    return body[:place] + (b"" if rng.random() < 0.5 else body[place + rng.choice((1, 2, 7, 100)) :])


def insert(body: bytes, rng: random.Random) -> bytes:
    """Insert a token, or a part of the body once more."""
    place = rng.randrange(len(body) + 1)
    start = rng.randrange(len(body))
    part = rng.choice(_TOKENS) if rng.random() < 0.7 else body[start : start + rng.randrange(1, 60)]
    return body[:place] + part + body[place:]


def renumber(body: bytes, rng: random.Random) -> bytes:
    """Replace a number, such as a length or a side, by another value."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", body[:4000]))
    if not found:
        return flip(body, rng)
    number = rng.choice(found)
    value = rng.choice(
        (b"0", b"-1", b"1", b"2.5", b"99", b"4294967296", b"9" * 30, b"1e9", b"NaN", b"[1]", b'"1"', b"true")
    )
    return body[: number.start()] + value + body[number.end() :]


def rewrite(body: bytes, rng: random.Random) -> bytes:
    """Replace four bytes by a large or a small length, as in the headers of binary formats."""
    place = rng.randrange(len(body))
    order = rng.choice(("big", "little"))
    return body[:place] + rng.choice((0, 1, 255, 65_535, 2**31 - 1, 2**32 - 1)).to_bytes(4, order) + body[place + 4 :]


def reshape(body: bytes, rng: random.Random) -> bytes:
    """Change a JSON document: nest, duplicate, rename or remove a member, or give it another type."""
    text = body.decode("latin-1")
    keys = list(re.finditer(r'"(\w+)"\s*:', text[:4000]))
    if not keys:
        return insert(body, rng)
    key = rng.choice(keys)
    kind = rng.randrange(5)
    if kind == 0:
        new = f'"{key[1]}":{rng.choice(("null", "[]", "{}", "1", "[[[]]]", "true"))},' + key[0]
    elif kind == 1:
        new = f'"{rng.choice(("inputs", "instances", "b64", "parameters", "data", "shape", "x", ""))}":'
    elif kind == 2:
        depth = rng.choice((3, 100, 500, 1100))
        new = f'"parameters":{"[" * depth}{"]" * depth},' + key[0]
    elif kind == 3:
        new = key[0] + rng.choice(("[", "{", "[[", '{"x":', "[1,", '"'))
    else:
        new = ""
    return (text[: key.start()] + new + text[key.end() :]).encode("latin-1")


def replace_all(body: bytes, rng: random.Random) -> bytes:
    """Return random bytes, or a token alone."""
    return rng.randbytes(rng.randrange(200)) if rng.random() < 0.5 else rng.choice(_TOKENS)


MUTATIONS: tuple[Mutation, ...] = (flip, flip, cut, insert, renumber, rewrite, reshape)
_TYPES = (
    "", "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary*=utf-8''%ff%fe",
    'multipart/form-data; boundary="a', "multipart/form-data; boundary=" + "a" * 300,
    "multipart/form-data; boundary=\xe4",
    "multipart/form-data; boundary=a; boundary=b", "multipart/form-data; boundary*0=a; boundary*1=b",
    "multipart/form-data;boundary*=x''%e2%82%ac", "image/", "image/png; a=\"\\", "application/x-npy; =",
    "\x00", "\xff\xfe",
)  # fmt: skip


def seeds(name: str) -> list[Request]:
    """Return valid requests of a wire, in all its forms."""
    wire = wire_class(name)(arrival_of(SHAPE))
    path = PATHS.get(name, "/x")
    images = images_of(SHAPE, 1 if name == "raw" else 2, eight_bits=True)
    found = [wire.compose(images, path)]
    files = [cv2.imencode(kind, np.uint8(images[0] * 255))[1].tobytes() for kind in (".png", ".jpg", ".webp")]
    rows = [image.astype(np.float64).tolist() for image in images]
    if name == "raw":
        found += [replace(found[0], body=file) for file in files]
    elif name == "multipart":
        parts = [(Part("x", "a.jpg", files[1]), "image/jpeg"), (Part("note", None, b"text"), None)]
        kind, body = write_form([*parts, (Part("y", "b", files[2]), None)])
        found.append(Request("POST", path, headers=Headers([("content-type", kind)]), body=body))
    elif name == "npy":
        for array in (
            np.uint8(images[0] * 255),
            np.asfortranarray(images[0].astype(">f8")),
            np.float16(images[0])[..., None],
        ):
            found.append(replace(found[0], body=write_npy(array)))
    elif name == "tfserving":
        b64 = {"b64": base64.b64encode(files[0]).decode()}
        documents = [
            {"instances": rows, "signature_name": "s"}, {"instances": [{"x": row} for row in rows]}, {"inputs": rows},
            {"inputs": {"x": rows}}, {"instances": [b64]}, {"inputs": {"x": b64}},
        ]  # fmt: skip
        found += [replace(found[0], body=json.dumps(document).encode()) for document in documents]
    else:
        shape = [2, *SHAPE]
        for datatype, values in (("FP32", rows), ("UINT8", np.rint(np.array(rows) * 255).tolist())):
            tensor = {"name": "x", "datatype": datatype, "shape": shape, "data": np.array(values).reshape(-1).tolist()}
            document = {"id": "1", "parameters": {"a": 1}, "inputs": [tensor], "outputs": [{"name": "y"}]}
            found.append(Request("POST", path, headers=Headers(), body=json.dumps(document).encode()))
    return [_with_fixed_boundary(request) if name == "multipart" else request for request in found]


def _with_fixed_boundary(request: Request) -> Request:
    kind = request.headers.get("content-type") or ""
    fixed = "0123456789abcdef" * 2
    body = request.body.replace(kind.partition("boundary=")[2].encode(), fixed.encode())
    return replace(request, headers=Headers([("content-type", f"multipart/form-data; boundary={fixed}")]), body=body)


def mutated(request: Request, rng: random.Random) -> Request:
    """Return a request with one to eight changes of its body, and sometimes of its headers."""
    body = request.body
    if rng.random() < 0.03:
        body = replace_all(body, rng)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
        body = (rng.choice(MUTATIONS) if body else replace_all)(body, rng)
    headers = request.headers
    if rng.random() < 0.05:
        headers = headers.with_(content_type=rng.choice(_TYPES))
    if rng.random() < 0.1:
        value = rng.choice(
            ("0", "-1", "1", "12", str(len(body)), str(len(body) + 1), "9" * 9, "1_0", "\xb2", "", "0x1")
        )
        headers = headers.with_(**{LENGTH: value})
    return request.with_body(body, headers)


def read(wire: Wire, request: Request) -> str:
    """Read a request, and return what became of it: ``read``, ``refused``, or ``not claimed``.

    Raises
    ------
    AssertionError
        If an image that was read is not valid, or what is passed on is not what was judged.
    """
    if not wire.claims(request):
        return "not claimed"
    try:
        submission = wire.read(request)
    except Refused:
        return "refused"
    assert 1 <= len(submission.images) <= wire.batch
    for image in submission.images:
        assert image.shape == SHAPE
        assert image.dtype == np.float32
        assert ((image >= 0) & (image <= 1)).all()
    passed_on = wire.read(submission.forwarded())
    assert [image.tobytes() for image in passed_on.images] == [image.tobytes() for image in submission.images]
    return "read"


def fuzz(name: str, bodies: int, seed: int) -> Counter[str]:
    """Read mutated requests with a wire; return how many were read, refused, and not claimed.

    Raises
    ------
    RuntimeError
        If there was another error. The message has the request.
    """
    wire, rng, valid = wire_class(name)(arrival_of(SHAPE)), random.Random(f"{name} {seed}"), seeds(name)
    found: Counter[str] = Counter()
    for number in range(bodies):
        request = mutated(rng.choice(valid), rng)
        try:
            found[read(wire, request)] += 1
        except Exception as error:
            raise RuntimeError(f"{name}, seed {seed}, body {number}: {request.headers!r} {request.body!r}") from error
    return found


async def fuzz_guard(folder: Path, name: str, bodies: int, seed: int) -> Counter[str]:
    """Send mutated requests through a guard; return the numbers of answers by status.

    Raises
    ------
    AssertionError
        If a refused request changes the ledger, a request that is answered does not, or the model server receives
        something else than valid images.
    """
    write_filter(folder, QuotaConfig(queries=10**9), longest=10**9, shape=SHAPE)
    model, ledger = Model(name, SHAPE), MemoryLedger()
    guard = await started(settings(folder), model, ledger=ledger)
    rng, valid = random.Random(f"{name} {seed}"), seeds(name)
    found: Counter[str] = Counter()
    for number in range(bodies):
        request = mutated(rng.choice(valid), rng)
        before, received = dict(ledger._entries), len(model.received)
        request = replace(request, headers=Headers([*request.headers, ("x-user", f"user {number % 3}")]))
        try:
            status = (await guard.handle(request)).status
        except Refused as refused:
            status = refused.status
        found[str(status)] += 1
        images = len(model.received) - received
        counted = sum(entry.queries for entry, _ in ledger._entries.values())
        if status == 200:
            assert counted == sum(entry.queries for entry, _ in before.values()) + images
            assert images
        else:
            assert status in (400, 404, 415), (status, request)
            assert ledger._entries == before
            assert not images
    return found


def main() -> None:
    """Fuzz the wires, and print what became of the bodies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bodies", type=int, default=1_000_000, help="number of bodies of each wire")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wire", choices=list(WIRES), action="append")
    parser.add_argument("--guard", action="store_true", help="send the bodies through a guard, and check its ledger")
    options = parser.parse_args()
    for name in options.wire or WIRES:
        start = time.monotonic()
        if options.guard:
            with tempfile.TemporaryDirectory() as folder:
                found = asyncio.run(fuzz_guard(Path(folder), name, options.bodies, options.seed))
        else:
            found = fuzz(name, options.bodies, options.seed)
        print(f"{name}: {dict(sorted(found.items()))}, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
