"""Ids of clients and sessions: text, numbers and UUIDs, as text."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from mifsim.data.logs.cells import Problem, is_bytes, is_text, texts

if TYPE_CHECKING:
    import pyarrow as pa

ACCEPTED_IDS = "text, whole numbers, UUIDs, bytes or dates"

LARGEST_EXACT = 2**53
"""Floats of at least this size may stand for several whole numbers, so that clients could be confused."""


def is_id(kind: pa.DataType) -> bool:
    """Return whether a column of this type can contain ids."""
    import pyarrow as pa

    is_ = pa.types
    if is_.is_dictionary(kind):
        return is_id(kind.value_type)
    return bool(
        is_text(kind)
        or is_bytes(kind)
        or isinstance(kind, pa.UuidType)
        or is_.is_integer(kind)
        or is_.is_floating(kind)
        or (is_.is_decimal(kind) and kind.scale == 0)
        or is_.is_timestamp(kind)
        or is_.is_date(kind)
        or is_.is_null(kind)
    )


def id_cells(column: pa.Array) -> list[str | Problem | None]:
    """Return the ids of a column of a type that `is_id` accepts; None for null.

    Floats that are whole numbers are accepted, because pandas stores whole numbers with gaps as floats.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        return id_cells(column.dictionary_decode())
    if isinstance(kind, pa.UuidType):
        return [None if raw is None else str(uuid.UUID(bytes=raw)) for raw in column.storage.to_pylist()]
    if pa.types.is_fixed_size_binary(kind):
        return [None if raw is None else raw.hex() for raw in column.to_pylist()]
    if is_text(kind) or is_bytes(kind):
        return list(texts(column))
    if pa.types.is_floating(kind):
        return [_whole(value) for value in column.to_pylist()]
    return list(texts(column.cast(pa.string())))


def _whole(value: Any) -> str | Problem | None:
    if value is None or value != value:
        return None
    if abs(value) >= LARGEST_EXACT or value != int(value):
        return Problem(f"the number {value!r} is not exact; store ids as text or whole numbers")
    return str(int(value))
