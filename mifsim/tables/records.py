"""The Parquet tables of a run: reading them checked, and writing them so that what is there is whole.

Every table is a folder of part files. A writer refuses rows that do not fit the table's schema (`SCHEMAS`, declared in
`mifsim.tables.schemas`). Each file carries the schema's version and the run's facts.
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
from mifsim.tables.schemas import CATEGORY as CATEGORY
from mifsim.tables.schemas import SCHEMA_VERSION as SCHEMA_VERSION
from mifsim.tables.schemas import SCHEMAS as SCHEMAS
from mifsim.tables.schemas import describe as describe
from mifsim.tables.storage import Folder, RemotePath, matching


class TableWriter:
    """Write one Parquet file beside its place, row group by row group, and rename it when it is whole.

    Parameters
    ----------
    path : Path or RemotePath
        Where the file will be. For a URL it is written on this machine and uploaded when it is whole.
    table : str
        Which of `SCHEMAS` it has.
    facts : mapping of str to str
        Into the file's metadata, beside ``schema_version`` and ``table``.
    schema : Schema, optional
        Of a table that is not among `SCHEMAS`, or has columns of its own beside those.

    Notes
    -----
    As a context manager: leaving it normally renames, leaving it by an exception removes.
    """

    def __init__(self, path: Folder, table: str, facts: Mapping[str, str], schema: pa.Schema | None = None) -> None:
        self.path = path
        metadata = {"schema_version": str(SCHEMA_VERSION), "table": table, **facts}
        self.schema = (SCHEMAS[table] if schema is None else schema).with_metadata(metadata)
        beside = None if isinstance(path, RemotePath) else path.parent
        if beside is not None:
            beside.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".partial", dir=beside)
        os.close(handle)
        self._temporary = Path(name)
        self._writer = pq.ParquetWriter(name, self.schema, compression="zstd")
        self.rows = 0

    def write(self, columns: Mapping[str, Any]) -> None:
        """Append rows: a column (array or list) for every field of the schema, no more and no fewer."""
        if set(columns) != set(self.schema.names):
            raise ValueError(f"columns {sorted(columns)} do not fit the schema {self.schema.names}")
        arrays = [_array(columns[field.name], field.type) for field in self.schema]
        table = pa.Table.from_arrays(arrays, schema=self.schema)
        if table.num_rows:
            with self._named():
                self._writer.write_table(table)
            self.rows += table.num_rows

    def close(self, *, keep: bool) -> None:
        """Finish the file: put it in its place, or throw it away."""
        try:
            with self._named() if keep else contextlib.suppress(OSError):
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
    def _named(self) -> Iterator[None]:
        """Let an error of the file system say which file it was: a full disk is noticed while writing."""
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
    """Return a table of a run as a pyarrow dataset, checked against the declared schema.

    Raises
    ------
    RunError
        Where the run has no such table, or a file of it is damaged or has another schema version.
    """
    folder = run / table
    files = matching(folder, "*.parquet")
    if not files:
        raise RunError(f"{run}: has no {table}/*.parquet: not a run folder, or nothing of it is finished")
    for file in files:
        try:
            system, name = _located(file)
            metadata = pq.read_schema(name, filesystem=system).metadata or {}
        except (OSError, pa.ArrowInvalid) as error:
            raise RunError(f"{file}: cannot be read: {error}") from None
        version = metadata.get(b"schema_version", b"none").decode()
        if version != str(SCHEMA_VERSION):
            raise RunError(f"{file}: schema_version is {version}, this mifsim reads {SCHEMA_VERSION}")
    names = [_located(file)[1] for file in files]
    system = _located(files[0])[0]
    # Some tables have further columns (searched parameters, recorders'), the same in all their files.
    found = pq.read_schema(names[0], filesystem=system)
    further = [field for field in found if field.name not in SCHEMAS[table].names]
    schema = pa.schema([*SCHEMAS[table], *further])
    return ds.dataset(names, schema=schema, format="parquet", filesystem=system)


def read_file(path: Folder) -> pa.Table:
    """Return one Parquet file of a run, as it is."""
    system, name = _located(path)
    return pq.read_table(name, filesystem=system, partitioning=None)


def _located(path: Folder) -> tuple[Any, str]:
    """Return what pyarrow takes: a file system, None for the local one, and a path on it."""
    return path.located if isinstance(path, RemotePath) else (None, str(path))


def read_checked(path: Path, schema: pa.Schema) -> pa.Table:
    """Return a table that is one file, checked like those of `open_table`.

    Raises
    ------
    RunError
        Where the file is missing or damaged, or has another schema version.
    """
    if not path.is_file():
        raise RunError(f"{path}: is missing")
    try:
        metadata = pq.read_schema(path).metadata or {}
        version = metadata.get(b"schema_version", b"none").decode()
        if version != str(SCHEMA_VERSION):
            raise RunError(f"{path}: schema_version is {version}, this mifsim reads {SCHEMA_VERSION}")
        return pq.read_table(path, schema=schema)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None


def read_single(path: Folder, table: str) -> pa.Table:
    """Return a table that is one file of a run, with all its columns, checked like those of `open_table`.

    Raises
    ------
    RunError
        Where the file is missing or damaged, has another schema version, or lacks a column.
    """
    if not path.is_file():
        raise RunError(f"{path}: is missing")
    try:
        found = read_file(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    version = (found.schema.metadata or {}).get(b"schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise RunError(f"{path}: schema_version is {version}, this mifsim reads {SCHEMA_VERSION}")
    if missing := [name for name in SCHEMAS[table].names if name not in found.column_names]:
        raise RunError(f"{path}: has no column {', '.join(missing)}")
    return found


def read_table(run: Folder, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a whole table of a run, sorted as its first columns say, in memory."""
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
    """Remove what an interrupted writer left beside its place."""
    for left in run.glob("*/.*.partial"):
        with contextlib.suppress(FileNotFoundError):
            left.unlink()
