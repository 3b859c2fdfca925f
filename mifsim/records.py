"""The Parquet tables of a run: their schemas, and writing them so that what is there is whole.

Every table is a folder of part files. A schema is declared here and nowhere else; a writer refuses rows that do
not fit it. Each field carries its description (see `describe`, or ``mifsim columns``), each file the schema's
version and the run's facts.
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
from mifsim.records_paper import PAPER_FIELDS, Words
from mifsim.storage import Folder, RemotePath, matching

SCHEMA_VERSION = 1


def _schema(*fields: tuple[str, pa.DataType, str]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, metadata={"description": text}) for name, kind, text in fields])


_SETTING = (
    ("t_ssim", pa.float64(), "SSIM above which a buffered image is similar; null without a filter"),
    ("t_hash", pa.float64(), "difference of mean-intensity hashes below which a buffered image is similar"),
    ("n_b", pa.int32(), "images that the buffer holds"),
    ("l_sp", pa.int32(), "count of suspicious submissions at which the session ends"),
    ("ssim", Words, "form of the SSIM: global, uniform or gaussian"),
    ("hash_size", pa.int32(), "edge of the image that the hash averages, in pixels"),
    ("count_rule", Words, "per_match (Algorithm 2) or per_query (Section 3.3)"),
)

SCHEMAS: dict[str, pa.Schema] = {
    "sessions": _schema(
        (
            "session_id",
            pa.string(),
            "client_id@filter, with #2, #3 ... for the further sessions of one client",
        ),
        (
            "client_id",
            pa.string(),
            "population/class/trial or population/number: the same under every filter",
        ),
        ("role", Words, "attacker or user"),
        ("population", Words, "name of the study's [[attacks]] or [[users]] table: a workload, for users"),
        ("client", Words, "kind of client, as registered"),
        ("target", pa.int16(), "class under attack; null for users"),
        ("trial", pa.int32(), "number of the client within its population (and class)"),
        ("filter", Words, "name of the study's [[filters]] table"),
        *_SETTING,
        ("budget_queries", pa.int64(), "queries after which an unblocked client is stopped"),
        ("outcome", Words, "blocked, finished (the client was done), exhausted (its budget was), failed"),
        ("queries", pa.int64(), "queries that the server received, bad and unsafe ones included"),
        ("answered_queries", pa.int64(), "queries that the model answered"),
        ("queries_to_block", pa.int64(), "the query at which UNSAFE came; null where it never did"),
        ("suspicious_count", pa.int64(), "the filter's count at the end"),
        (
            "target_confidence",
            pa.float32(),
            "the victim's confidence in the target at the last answered query",
        ),
        ("error", pa.string(), "what a failed client raised; null otherwise"),
    ),
    "queries": _schema(
        ("session_id", Words, "as in sessions"),
        ("query", pa.int64(), "number of the query within its session, from 1"),
        ("verdict", Words, "safe, unsafe, or invalid (not an image: refused, the session goes on)"),
        ("suspicious_count", pa.int64(), "the filter's count after the query"),
        ("label", pa.int16(), "class that the model gave; null where it was not asked"),
        ("confidence", pa.float32(), "the model's confidence in that class; null where it was not asked"),
        (
            "target_confidence",
            pa.float32(),
            "the model's confidence in the class under attack; null for users",
        ),
    ),
    "snapshots": _schema(
        ("session_id", pa.string(), "as in sessions"),
        ("target", pa.int16(), "class under attack"),
        ("query", pa.int64(), "answered query after which the attacker held this guess; 0: before the first"),
        ("last", pa.bool_(), "whether it was the last answered query of the session: the leakage at block"),
        ("guess_png", pa.binary(), "the attacker's best guess, 8 bits, as PNG"),
    ),
    "similarities": _schema(
        ("session_id", Words, "as in sessions"),
        ("query", pa.int64(), "number of the query within its session, from 1"),
        ("hash", pa.float64(), "mean-intensity hash, in [0, 1]; null for an invalid query"),
        *(
            (f"ssim_{form}", pa.list_(pa.float32()), f"{form} SSIM to the valid queries before, newest first; {rest}")
            for form, rest in (
                ("global", "as many as were watched; null where this form was not"),
                ("uniform", "likewise"),
                ("gaussian", "likewise"),
            )
        ),
    ),
    "trials": _schema(
        ("trial", pa.int64(), "number of the trial, in the order of the search's proposals, from 0"),
        *_SETTING,
        ("queries_to_block", pa.float64(), "restricted mean, of the worst attack or over attacks, as the study says"),
        ("false_positive_rate", pa.float64(), "of the worst honest workload"),
        ("leakage_at_block", pa.float64(), "mean evaluator confidence at block; null where it is no objective"),
        ("sessions_replayed", pa.int64(), "sessions that the trial was scored on: fewer where it was given up early"),
        ("elapsed_seconds", pa.float64(), "since the search began (its parts added up, where it was resumed)"),
    ),
    "frontier": _schema(
        (
            "source",
            Words,
            "search (found by trials), cautious (a careful copy of a found one, tested too), "
            "exact (exhaustive grid), given (in the study)",
        ),
        *_SETTING,
        ("name", pa.string(), "of the filter, where it has one; null otherwise"),
        ("queries_to_block", pa.float64(), "restricted mean on the search part"),
        ("false_positive_rate", pa.float64(), "of the worst honest workload on the search part"),
        ("p_value", pa.float64(), "that some workload is above its limit, on the certification part; null: not tested"),
        ("certified", pa.bool_(), "whether the guarantee holds for it; null: not tested"),
        ("chosen", pa.bool_(), "whether it is the setting in filter.toml"),
    ),
    "certification": _schema(
        *_SETTING,
        ("workload", Words, "population of honest users"),
        ("limit", pa.float64(), "false-positive rate that must not be exceeded"),
        ("sessions", pa.int64(), "of the workload in the certification part"),
        ("blocked", pa.int64(), "of them by this setting"),
        ("p_value", pa.float64(), "exact binomial: chance of so few, were the rate at its limit"),
        ("chosen", pa.bool_(), "whether it is the setting in filter.toml"),
    ),
    "matrix_attacks": _schema(
        ("attack", Words, "kind of attack, as registered"),
        ("evasions", Words, "what stands around it, joined by +, the first nearest to the attack; empty for nothing"),
        ("population", Words, "as in sessions"),
        ("filter", Words, "as in sessions"),
        ("attackers", pa.int64(), "how many there are"),
        ("blocked_share", pa.float64(), "of them: that gave up, refused in their last session"),
        ("queries_to_block", pa.float64(), "restricted mean over all sessions of an attacker, up to its budget"),
        ("budget_queries", pa.int64(), "of one attacker"),
        ("sessions_used", pa.float64(), "mean of one attacker"),
        ("queries_spent", pa.float64(), "mean of one attacker, blocked or not"),
        (
            "leakage_at_block",
            pa.float64(),
            "evaluator's mean confidence in what they held at the end; null: unscored",
        ),
        ("leakage_undefended", pa.float64(), "the same where nothing filters"),
        ("leakage_without_queries", pa.float64(), "the same for the better of the floors"),
        ("outcome", Words, "stopped, delayed or lost, see the page"),
    ),
    "matrix_users": _schema(
        ("workload", Words, "population of honest users"),
        ("filter", Words, "as in sessions"),
        ("sessions", pa.int64(), "how many there are, failed ones left out"),
        ("blocked", pa.int64(), "of them"),
        ("false_positive_rate", pa.float64(), "the share blocked"),
        ("low", pa.float64(), "of its exact 95% interval"),
        ("high", pa.float64(), "likewise"),
    ),
    "attack_benchmark": _schema(
        ("population", Words, "as in sessions"),
        ("attack", Words, "kind of attack, as registered; null for what needs no query"),
        ("needs", Words, "what it needs back: label, top-k, confidence or gradients; null for what needs no query"),
        ("attackers", pa.int64(), "how many there are, failed ones left out; of floors: images and classes"),
        ("reconstructions", pa.int64(), "of them, those that differ: what the tests count"),
        ("answered_queries", pa.float64(), "median of one attacker"),
        ("evaluator_hits", pa.int64(), "reconstructions that the evaluator takes for their target"),
        ("evaluator_hit_share", pa.float64(), "the share of them"),
        ("low", pa.float64(), "of its exact 95% interval; null for floors"),
        ("high", pa.float64(), "likewise"),
        ("evaluator_confidence", pa.float64(), "in the target, mean"),
        ("feature_distance", pa.float64(), "to the nearest private image of the class, median"),
        ("closer", pa.int64(), "reconstructions closer than the median zero-query prior image is for their class"),
        ("hit_p_value", pa.float64(), "Fisher's exact test: chance of so many more hits than the prior's by luck"),
        ("distance_p_value", pa.float64(), "exact sign test: chance of so many closer ones by luck"),
        ("works", pa.bool_(), "whether both are below 0.01; null for floors"),
    ),
    "log_clients": _schema(
        ("client_id", pa.string(), "as in sessions"),
        ("population", Words, "name of the study's [[users]] table"),
        ("log_client", pa.string(), "the client's id in the log"),
        ("images", pa.int64(), "of this client in the log that can be used"),
    ),
    "bad_rows": _schema(
        ("population", Words, "name of the study's [[users]] table"),
        ("file", Words, "Parquet file of the log, or image file"),
        ("row", pa.int64(), "number of the row in a Parquet file, from 0; null in a folder of images"),
        ("log_client", pa.string(), "the client's id in the log; null where there is none"),
        ("problem", pa.string(), "why the row cannot be used"),
    ),
    "leakage": _schema(
        (
            "kind",
            Words,
            "attack, or a floor: random (noise images), prior (auxiliary images, no query needed)",
        ),
        ("session_id", pa.string(), "as in sessions; null for floors"),
        ("target", pa.int16(), "class under attack"),
        ("query", pa.int64(), "answered query after which the attacker held this guess; 0 for floors"),
        ("last", pa.bool_(), "whether it was the last answered query of the session"),
        ("evaluator_confidence", pa.float32(), "confidence in the target by a model of another architecture"),
        ("evaluator_hit", pa.bool_(), "whether that model takes the guess for the target"),
        (
            "feature_distance",
            pa.float32(),
            "distance to the nearest private image of the class, in its features",
        ),
        ("ssim_nearest", pa.float32(), "SSIM (global) to the most similar private image of the class"),
        ("psnr_nearest_db", pa.float32(), "PSNR to the closest private image of the class, in dB"),
    ),
    **{name: _schema(*fields) for name, fields in PAPER_FIELDS.items()},
}


def describe(table: str | None = None) -> Iterator[tuple[str, str, str, str]]:
    """Yield (table, column, type, description) for one table or all."""
    for name, schema in SCHEMAS.items():
        if table in (None, name):
            for field in schema:
                kind = "text" if field.type in (Words, pa.string()) else str(field.type)
                yield name, field.name, kind, (field.metadata or {})[b"description"].decode()


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

    Notes
    -----
    As a context manager: leaving it normally renames, leaving it by an exception removes.
    """

    def __init__(self, path: Folder, table: str, facts: Mapping[str, str]) -> None:
        self.path = path
        metadata = {"schema_version": str(SCHEMA_VERSION), "table": table, **facts}
        self.schema = SCHEMAS[table].with_metadata(metadata)
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
    return ds.dataset(names, schema=SCHEMAS[table], format="parquet", filesystem=_located(files[0])[0])


def read_file(path: Folder) -> pa.Table:
    """Return one Parquet file of a run, as it is."""
    system, name = _located(path)
    return pq.read_table(name, filesystem=system, partitioning=None)


def _located(path: Folder) -> tuple[Any, str]:
    """Return what pyarrow takes: a file system, None for the local one, and a path on it."""
    return path.located if isinstance(path, RemotePath) else (None, str(path))


def read_checked(path: Path, table: str) -> pa.Table:
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
        return pq.read_table(path, schema=SCHEMAS[table])
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None


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
            if name in order and read.schema.field(name).type == Words
            else read[name]
            for name in read.column_names
        }
    )
    ordered = plain.sort_by([(name, "ascending") for name in order])
    return ordered if columns is None else ordered.select(list(columns))


def sweep(run: Folder) -> None:
    """Remove what an interrupted writer left beside its place."""
    for left in run.glob("*/.*.partial"):
        with contextlib.suppress(FileNotFoundError):
            left.unlink()
