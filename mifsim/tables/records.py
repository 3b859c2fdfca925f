"""Checked reading and atomic writing of a run's Parquet tables.

A table is one file or a folder of part files. A writer accepts only rows that match the table's schema (`SCHEMAS`,
declared in `mifsim.tables.schemas`). The metadata of each file has the schema version and the run's facts.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from mifsim.errors import RunError
from mifsim.tables.columns import describe as describe
from mifsim.tables.fields import CATEGORY as CATEGORY
from mifsim.tables.schemas import SCHEMA_VERSION as SCHEMA_VERSION
from mifsim.tables.schemas import SCHEMAS as SCHEMAS
from mifsim.tables.storage import Folder, RemotePath, matching


class TableWriter:
    """Writes one Parquet file, row group by row group, to a temporary file that is renamed when it is complete.

    Parameters
    ----------
    path : Path or RemotePath
        The final path. For a URL, the temporary file is on this machine and is uploaded when it is complete.
    table : str
        Name of the table, a key of `SCHEMAS` unless `schema` is given.
    facts : mapping of str to str
        Metadata of the file, in addition to ``schema_version`` and ``table``.
    schema : Schema, optional
        The schema of a table that is not in `SCHEMAS` or has additional columns.

    Notes
    -----
    As a context manager, it renames the temporary file on success and removes it on an exception.
    """

    def __init__(self, path: Folder, table: str, facts: Mapping[str, str], schema: pa.Schema | None = None) -> None:
        self.path = path
        metadata = {"schema_version": str(SCHEMA_VERSION), "table": table, **facts}
        self.schema = (SCHEMAS[table] if schema is None else schema).with_metadata(metadata)
        parent = None if isinstance(path, RemotePath) else path.parent
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".partial", dir=parent)
        os.close(handle)
        self._temporary = Path(name)
        self._writer = pq.ParquetWriter(name, self.schema, compression="zstd")
        self.rows = 0

    def write(self, columns: Mapping[str, Any]) -> None:
        """Append rows.

        Parameters
        ----------
        columns : mapping of str to array or list
            The values of every field of the schema.

        Raises
        ------
        ValueError
            If the columns are not exactly those of the schema.
        """
        if set(columns) != set(self.schema.names):
            raise ValueError(f"columns {sorted(columns)} do not match the schema {self.schema.names}")
        arrays = [_array(columns[field.name], field.type) for field in self.schema]
        table = pa.Table.from_arrays(arrays, schema=self.schema)
        if table.num_rows:
            with self._with_path():
                self._writer.write_table(table)
            self.rows += table.num_rows

    def close(self, *, keep: bool) -> None:
        """Close the file and move it to its final path, or discard it if `keep` is false."""
        try:
            with self._with_path() if keep else contextlib.suppress(OSError):
                self._writer.close()
            if not keep:
                return
            if isinstance(self.path, RemotePath):
                self.path.put(self._temporary)
            else:
                self._temporary.chmod(0o644)
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _with_path(self) -> Iterator[None]:
        """Add the file's path to errors of the file system, such as a full disk."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, str(error), str(self.path)) from error

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(keep=kind is None)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        return values if values.type == kind else values.cast(kind)
    if pa.types.is_dictionary(kind):
        return pa.array(values, type=kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, type=kind)


def open_table(run: Folder, table: str) -> ds.Dataset:
    """Return a table of a run as a pyarrow dataset with the declared schema.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    table : str
        A key of `SCHEMAS`.

    Raises
    ------
    RunError
        If the run has no such table, or one of its files is damaged or has another schema version.
    """
    folder = run / table
    files = matching(folder, "*.parquet")
    if not files:
        raise RunError(f"{run}: has no {table}/*.parquet (not a run folder, or no shard is finished)")
    for file in files:
        try:
            system, name = _file_system_path(file)
            metadata = pq.read_schema(name, filesystem=system).metadata or {}
        except (OSError, pa.ArrowInvalid) as error:
            raise RunError(f"{file}: cannot be read: {error}") from None
        version = metadata.get(b"schema_version", b"none").decode()
        if version != str(SCHEMA_VERSION):
            raise RunError(f"{file}: schema_version is {version} (accepted: {SCHEMA_VERSION})")
    names = [_file_system_path(file)[1] for file in files]
    system = _file_system_path(files[0])[0]
    # Some tables have additional columns, the same in all files: searched parameters, or the columns of recorders.
    found = pq.read_schema(names[0], filesystem=system)
    additional = [field for field in found if field.name not in SCHEMAS[table].names]
    schema = pa.schema([*SCHEMAS[table], *additional])
    return ds.dataset(names, schema=schema, format="parquet", filesystem=system)


def read_file(path: Folder) -> pa.Table:
    """Return the content of one Parquet file without checks."""
    system, name = _file_system_path(path)
    return pq.read_table(name, filesystem=system, partitioning=None)


def _file_system_path(path: Folder) -> tuple[Any, str]:
    """Return the pyarrow file system of a path (None for the local one), and the path on it."""
    return path.located if isinstance(path, RemotePath) else (None, str(path))


def read_checked(path: Path, schema: pa.Schema) -> pa.Table:
    """Return the content of a table file with a given schema.

    Raises
    ------
    RunError
        If the file is missing or damaged, or has another schema version.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file")
    try:
        metadata = pq.read_schema(path).metadata or {}
        version = metadata.get(b"schema_version", b"none").decode()
        if version != str(SCHEMA_VERSION):
            raise RunError(f"{path}: schema_version is {version} (accepted: {SCHEMA_VERSION})")
        return pq.read_table(path, schema=schema)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None


def read_single(path: Folder, table: str) -> pa.Table:
    """Return a table of a run that is stored as one file, with all its columns.

    Raises
    ------
    RunError
        If the file is missing or damaged, has another schema version, or lacks a column.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file")
    try:
        found = read_file(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    version = (found.schema.metadata or {}).get(b"schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise RunError(f"{path}: schema_version is {version} (accepted: {SCHEMA_VERSION})")
    if missing := [name for name in SCHEMAS[table].names if name not in found.column_names]:
        raise RunError(f"{path}: missing columns: {', '.join(missing)}")
    return found


def read_table(run: Folder, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a table of a run in memory, sorted by its key columns.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    table : str
        ``"sessions"``, ``"queries"``, ``"snapshots"`` or ``"leakage"``.
    columns : sequence of str or None
        The columns to return; None: all.

    Raises
    ------
    RunError
        See `open_table`.
    """
    keys = {
        "sessions": ["session_id"],
        "queries": ["session_id", "query"],
        "snapshots": ["session_id", "query"],
    }
    order = keys.get(table, ["kind", "session_id", "target", "query"])
    wanted = None if columns is None else list(dict.fromkeys([*columns, *order]))
    read = open_table(run, table).to_table(columns=wanted)
    plain = pa.table(
        {
            name: read[name].cast(pa.string())
            if name in order and read.schema.field(name).type == CATEGORY
            else read[name]
            for name in read.column_names
        }
    )
    ordered = plain.sort_by([(name, "ascending") for name in order])
    return ordered if columns is None else ordered.select(list(columns))


def remove_partial_files(run: Folder) -> None:
    """Remove the temporary files of interrupted writers."""
    for partial in run.glob("*/.*.partial"):
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
