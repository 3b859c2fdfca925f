"""What workers send each other arrives unchanged, however the stream is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mifsim.guard.ledger import Entry
from mifsim.guard.message import Headers, Reply, Request
from mifsim.guard.workers.frames import (
    Frames,
    entry_part,
    frame,
    read_entry,
    read_reply,
    read_request,
    reply_parts,
    request_parts,
)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2**32 - 1), st.binary(max_size=300)), max_size=8),
    st.lists(st.integers(1, 50), min_size=1),
)
def test_frames_can_be_cut_anywhere(sent: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(part for kind, number, payload in sent for part in frame(kind, number, payload))
    frames, found, start = Frames(), [], 0
    for size in [*cuts, len(stream)]:
        found += list(frames.feed(stream[start : start + size]))
        start += size
    found += list(frames.feed(stream[start:]))
    assert found == sent


@given(st.binary(max_size=64), st.text("aü\xff \t", max_size=20), st.booleans())
def test_requests_and_replies_pass_unchanged(body: bytes, value: str, alone: bool) -> None:
    headers = Headers([("x-user", value), ("x-user", "b"), ("accept", "")])
    request = Request("POST", "/a%20b", "q=1", headers, body, "::1", "CN=ü", "id")
    client = bytes(range(16))
    assert read_request(b"".join(request_parts(client, request, alone, 1.5))) == (client, request, alone, 1.5)
    reply = Reply(403, headers, body)
    assert read_reply(b"".join(reply_parts(reply))) == reply


@given(st.floats(0, 2e9), st.integers(0, 2**40), st.text(max_size=20))
def test_entries_pass_unchanged(time: float, number: int, text: str) -> None:
    entry = Entry(bytes(range(16)), time, time + 1.5, number, text, 0.0, "digest", number)
    assert read_entry(entry_part(entry)) == entry
