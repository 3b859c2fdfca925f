"""Descriptions of the tables' columns, and additional columns for searched parameters and recorders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from mifsim.tables.fields import CATEGORY, schema_of
from mifsim.tables.schemas import SCHEMAS


def describe(
    table: str | None = None, schemas: Mapping[str, pa.Schema] = SCHEMAS
) -> Iterator[tuple[str, str, str, str]]:
    """Yield (table, column, type, description) for each column.

    Parameters
    ----------
    table : str or None
        One table; None: all.
    schemas : mapping of str to Schema
        The tables by name.

    Examples
    --------
    >>> next(describe("log_clients"))
    ('log_clients', 'client_id', 'text', 'as in sessions')
    """
    for name, schema in schemas.items():
        if table in (None, name):
            for field in schema:
                kind = "text" if field.type in (CATEGORY, pa.string()) else str(field.type)
                yield name, field.name, kind, (field.metadata or {})[b"description"].decode()


def with_columns(table: str, fields: Mapping[str, tuple[pa.DataType, str]], after: str | None = None) -> pa.Schema:
    """Return a table's schema with additional columns, for searched parameters or the values of recorders.

    Parameters
    ----------
    table : str
        A key of `SCHEMAS`.
    fields : mapping of str to (type, description)
        The additional columns by name.
    after : str or None
        The column after which they are inserted; None: the last one.

    Examples
    --------
    >>> with_columns("log_clients", {"days": (pa.int64(), "of the log")}, after="client_id").names
    ['client_id', 'days', 'population', 'log_client', 'sessions', 'images']
    """
    declared = list(SCHEMAS[table])
    position = len(declared) if after is None else SCHEMAS[table].names.index(after) + 1
    return pa.schema(
        [*declared[:position], *schema_of(*((name, *rest) for name, rest in fields.items())), *declared[position:]]
    )


def param_column(name: str) -> str:
    """Return the name of the column of a searched parameter."""
    return f"param_{name}"
