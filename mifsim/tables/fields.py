"""Fields of Parquet tables, with descriptions, and types that several tables use."""

from __future__ import annotations

import pyarrow as pa

CATEGORY = pa.dictionary(pa.int32(), pa.string())
"""Dictionary-encoded text; pandas reads it as a category."""


def schema_of(*fields: tuple[str, pa.DataType, str]) -> pa.Schema:
    """Return a schema from (name, type, description) tuples; the descriptions become metadata of the fields."""
    return pa.schema([pa.field(name, kind, metadata={"description": text}) for name, kind, text in fields])
