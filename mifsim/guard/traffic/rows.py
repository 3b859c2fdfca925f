"""The rows of the traffic log: as the event loop packs them, as a journal contains them, and as a table.

The event loop packs what a row needs into a few bytes, and a journal contains these. That is ten times as fast as to
make all columns at once, which is done for many rows together when a segment is made.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.data.image_headers import PNG, PNG_CHANNELS, read_header
from mifsim.data.npy import write_npy
from mifsim.guard.arrival import JPEG, Arrival, Sent
from mifsim.guard.keeper import Counted
from mifsim.guard.wire.base import Submission

if TYPE_CHECKING:
    import pyarrow as pa

PACKED = struct.Struct("<16sqqqddifBB3I8s")
PACKED_DTYPE = np.dtype(
    [
        ("client", "V16"), ("started", "<i8"), ("query", "<i8"), ("time", "<i8"), ("count", "<f8"), ("limit", "<f8"),
        ("label", "<i4"), ("confidence", "<f4"), ("flags", "u1"), ("kind", "u1"), ("shape", "<u4", 3), ("config", "V8"),
    ]
)  # fmt: skip
"""The layout of `PACKED`. `kind` is a position in `KINDS`; sides that a shape does not have are 0."""

UNSAFE, ANSWERED, LABELLED = 1, 2, 4
"""Bits of `flags`."""

KINDS = ("application/x-npy", "image/png", "image/jpeg", "image/webp")

JOURNAL_VERSION = b"1"
JOURNAL_KEY = b"mifsim_traffic_journal"


class Row(NamedTuple):
    """A row as the event loop hands it over.

    Attributes
    ----------
    packed : bytes
        See `PACKED`.
    image : bytes or ndarray
        As the client sent it; a float32 array as it was judged, if the transport has changed nothing.
    arrival : Arrival or None
        What brings the array to the form that is stored; None: it has this form.
    request_id, policy : str
    """

    packed: bytes
    image: Sent
    arrival: Arrival | None
    request_id: str
    policy: str


def rows_of(
    counted: Counted, submission: Submission, arrival: Arrival, name: tuple[bytes, int, bytes], policy: str
) -> Iterator[Row]:
    """Yield the rows of a request's judged queries, after the model's answer.

    Parameters
    ----------
    counted : Counted
    submission : Submission
    arrival : Arrival
        That of the wire which has read the request.
    name : tuple
        The client's hash, the start of the session in microseconds since 1970, and the digest of the configuration.
    policy : str
        The session policy in words.
    """
    judgement, confidence = counted.judgement, counted.confidence
    query, time, request_id = counted.before.queries + 1, counted.time, submission.request.id
    client, started, config = name
    last = judgement.queries - 1
    answered = 0 if counted.undone else ANSWERED
    label, certainty, labelled = 0, 0.0, 0
    for place, (count, limit) in enumerate(judgement.counts):
        image = submission.sent[place]
        flags = answered | (UNSAFE if judgement.unsafe and place == last else 0)
        if confidence is not None:
            label, labelled = int(confidence[place].argmax()), LABELLED
            certainty = float(confidence[place, label])
        if isinstance(image, bytes):
            shape, through = _file_facts(image), None
        else:
            shape, through = (0, *image.shape, 0)[:4], arrival
            if arrival.transport.kind == "float32" and image.dtype != np.uint8:
                image, through = submission.images[place], None
        packed = PACKED.pack(
            client, started, query + place, time + place, count, limit, label, certainty, flags | labelled, *shape,
            config,
        )  # fmt: skip
        yield Row(packed, image, through, request_id, policy)


def _file_facts(image: bytes) -> tuple[int, int, int, int]:
    """Return the kind of an image file that was accepted, and its height, width and channels as stored."""
    if image.startswith(PNG):
        return _png_facts(image[16:26])  # the header comes first, and was checked when the image was decoded
    header = read_header(image)
    return 2 if image.startswith(JPEG) else 3, header.rows, header.columns, header.channels


@lru_cache(maxsize=1024)
def _png_facts(header: bytes) -> tuple[int, int, int, int]:
    columns, rows, _, colours = struct.unpack(">IIBB", header)
    return 1, rows, columns, PNG_CHANNELS[colours]


def journal_schema(images: str) -> pa.Schema:
    """Return the schema of a journal, for the setting ``log.images``."""
    import pyarrow as pa

    from mifsim.tables.traffic_schema import IMAGES_KEY

    fields = [
        ("packed", pa.binary(PACKED.size)),
        ("image", pa.binary()),
        ("request_id", pa.string()),
        ("policy", pa.string()),
    ]
    return pa.schema(fields, {JOURNAL_KEY: JOURNAL_VERSION, IMAGES_KEY: images.encode()})


def to_message(rows: Sequence[Row], schema: pa.Schema, with_images: bool) -> list[pa.Buffer]:
    """Return the messages of a journal with these rows."""
    import pyarrow as pa

    found = []
    for policy, group in groupby(rows, key=lambda row: row.policy):
        some = list(group)
        images = [stored_image(row) for row in some] if with_images else []
        columns = [
            pa.Array.from_buffers(
                schema.field("packed").type, len(some), [None, pa.py_buffer(b"".join([row.packed for row in some]))]
            ),
            _texts(images, pa.binary()) if with_images else pa.nulls(len(some), pa.binary()),
            _texts([row.request_id.encode() for row in some], pa.string()),
            pa.repeat(policy, len(some)),
        ]
        found.append(pa.record_batch(columns, schema).serialize())
    return found


def _texts(values: list[bytes], kind: pa.DataType) -> pa.Array:
    """Return bytes or text as a column, many times as fast as pyarrow does from a list."""
    import pyarrow as pa

    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))])


def stored_image(row: Row) -> bytes:
    """Return an image as the log stores it: a file's bytes, or an array as it was before the transport."""
    if isinstance(row.image, bytes):
        return row.image
    return write_npy(row.image if row.arrival is None else row.arrival.exact(row.image))


def to_table(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Return the rows of a journal's batches as a table with the schema of the log."""
    import pyarrow as pa
    import pyarrow.compute as pc

    stored = pa.Table.from_batches(batches).combine_chunks()
    (packed,) = stored["packed"].chunks
    rows = np.frombuffer(packed.buffers()[1], PACKED_DTYPE, len(packed), packed.offset * PACKED.size)
    flags = rows["flags"]
    unlabelled = (flags & LABELLED) == 0
    columns = {
        "client": _named(rows, ["client"], bytes.hex),
        "session": _named(rows, ["client", "started"], _session),
        "query": pa.array(rows["query"]),
        "time": pa.array(rows["time"]).cast(schema.field("time").type),
        "image": stored["image"],
        "content_type": _named(rows, ["kind"], lambda raw: KINDS[raw[0]]),
        "shape": _named(rows, ["shape"], _shape),
        "verdict": pc.if_else(pa.array((flags & UNSAFE) != 0), "unsafe", "safe"),
        "count": pa.array(rows["count"]),
        "limit": pa.array(rows["limit"]),
        "answered": pa.array((flags & ANSWERED) != 0),
        "label": pa.array(rows["label"], mask=unlabelled),
        "confidence": pa.array(rows["confidence"], mask=unlabelled),
        "request_id": stored["request_id"],
        "filter": _named(rows, ["config"], bytes.hex),
        "policy": stored["policy"],
    }
    return pa.table([columns[name] for name in schema.names], schema)


def warm_up() -> None:
    """Convert a row, so that what pyarrow imports on first use does not delay the first rows."""
    import pyarrow.parquet

    from mifsim.tables.traffic_schema import traffic_schema

    schema = journal_schema("all")
    (message,) = to_message([Row(bytes(PACKED.size), b"", None, "", "")], schema, True)
    to_table([pyarrow.ipc.read_record_batch(message, schema)], traffic_schema("all"))


def _named(rows: npt.NDArray[Any], fields: list[str], text: Callable[[bytes], str]) -> pa.Array:
    """Return the text of the bytes of some fields, of which few differ."""
    import pyarrow as pa

    raw = np.concatenate([np.ascontiguousarray(rows[name]).view(np.uint8).reshape(len(rows), -1) for name in fields], 1)
    column = pa.Array.from_buffers(pa.binary(raw.shape[1]), len(rows), [None, pa.py_buffer(raw.tobytes())])
    encoded = column.dictionary_encode()
    names = pa.array([text(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return pa.DictionaryArray.from_arrays(encoded.indices, names).cast(pa.string())


def _session(raw: bytes) -> str:
    return session_name(raw[:16], int.from_bytes(raw[16:], "little"))


def session_name(client: bytes, started: int) -> str:
    """Return the name of a session in the log: unique, and the same after a restart of the guard."""
    return f"{client.hex()}-{started}"


def _shape(raw: bytes) -> str:
    """Return a shape such as ``28x28x1``."""
    sides = struct.unpack("<3I", raw)
    return "x".join(str(side) for side in sides if side)
