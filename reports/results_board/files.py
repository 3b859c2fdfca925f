"""Checks of the files of a run before it is admitted to a board: status, schemas, digests, and tables made anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mifsim.errors import RunError
from mifsim.tables.bench_schemas import BENCH_SCHEMAS
from mifsim.tables.digests import result_digests
from mifsim.tables.schemas import SCHEMA_VERSION, SCHEMAS
from reports.bench import CALIBRATIONS, CLOSED_LOOP, ablations, bench_table, cells
from reports.tables import facts

Digests = Literal["equal", "not recorded"]

_REQUIRED = ("bench_outcomes", "workloads", "detectors", "cells")
_OPTIONAL = ("bench_ablations", "ablations")
_FACTS = (
    "run_id", "schema_version", "study", "study_fingerprint", "seed", "status", "versions", "data", "victim",
    "finished",
)  # fmt: skip
_READ = {
    "sessions": {"session_id", "client_id", "role", "population", "target", "filter", "kind", "config", "outcome"}
    | {"budget_queries", "queries", "queries_to_block", "last_query", "client_number", "target_confidence"},
    "leakage": {"kind", "session_id", "target", "query", "last", "evaluator_confidence"},
    "certification": {"kind", "config", "workload", "limit", "sessions", "blocked", "p_value", "chosen"},
}
"""Columns of the parts of a comparison that the board or its checks read. Parts written before a column was added may
lack others."""
_RELATIVE = 1e-9
"""Relative difference up to which means are equal: another processor may add in another order."""


@dataclass(frozen=True)
class FileCheck:
    """The result of the check of a run's files.

    Attributes
    ----------
    digests : {"equal", "not recorded"}
        Whether ``run.json`` records the digests of the files, which are then equal. Runs of earlier versions, and runs
        at a URL, record none.
    absent : tuple of str
        Columns, as ``table.column``, that this version writes and a part of the run lacks; the board does not use them.
    """

    digests: Digests
    absent: tuple[str, ...]


def check_files(run: Path) -> FileCheck:
    """Check that a folder is that of a complete comparison, whose files are the ones that it wrote.

    Raises
    ------
    RunError
        If the run or a part of it is not complete, a table is missing or has other columns than this version writes, a
        file belongs to another run, or a digest differs from the recorded one.
    """
    known = _complete_facts(run)
    if "bench" not in known:
        raise RunError(
            f"{run / 'run.json'}: bench: missing: not the run of a comparison (accepted: a run folder of mifsim bench)"
        )
    for name in (*_REQUIRED, *_OPTIONAL):
        path = run / f"{name}.parquet"
        if name in _REQUIRED or path.is_file():
            _check_table(path, name, BENCH_SCHEMAS[name], known, set(BENCH_SCHEMAS[name].names))
    found = _check_digests(run, known)
    absent: set[str] = set()
    for part in _parts(run):
        of_part = _complete_facts(part)
        for path, name in _tables_of(part):
            absent |= _check_table(path, name, SCHEMAS[name], of_part, _READ.get(name, set()))
        _check_digests(part, of_part)
        for key in ("data", "victim"):
            if of_part[key].get("fingerprint") != known[key].get("fingerprint"):
                raise RunError(
                    f"{part / 'run.json'}: {key}.fingerprint = {of_part[key].get('fingerprint')!r} (accepted: that of "
                    f"the comparison, {known[key].get('fingerprint')!r})"
                )
    return FileCheck(found, tuple(sorted(absent)))


def check_tables_made_anew(run: Path) -> int:
    """Make the tables ``cells`` and ``ablations`` anew from the other files, and compare; return the number of rows.

    Counts, words and verdicts must be equal, means and intervals equal to nine digits.

    Raises
    ------
    RunError
        If a value differs.
    """
    rows = 0
    for name, made in (("cells", cells(run)), ("ablations", ablations(run))):
        if not (run / f"{name}.parquet").is_file():
            continue
        stored = bench_table(run, name)
        keys = [key for key in ("detector", "scope", "attack", "evasion", "without", "knows_detector") if key in stored]
        if len(stored) != len(made):
            raise RunError(
                f"{run / f'{name}.parquet'}: {len(stored):,} rows, but the other files of the run give {len(made):,} "
                f"(accepted: what they give; mifsim report {run} writes it)"
            )
        _compare(run / f"{name}.parquet", stored, made, keys)
        rows += len(made)
    return rows


def _compare(path: Path, stored: pd.DataFrame, made: pd.DataFrame, keys: list[str]) -> None:
    for one, other in zip(stored.to_dict("records"), made.to_dict("records"), strict=True):
        for column, value in one.items():
            if not _equal(value, other[column]):
                row = ", ".join(f"{key} = {one[key]!r}" for key in keys)
                raise RunError(
                    f"{path}: {row}: {column} = {value!r}, but the other files of the run give {other[column]!r} "
                    f"(accepted: what they give; mifsim report {path.parent} writes it)"
                )


def _equal(one: Any, other: Any) -> bool:
    if pd.isna(one) or pd.isna(other):
        return bool(pd.isna(one) and pd.isna(other))
    if isinstance(one, float):
        return bool(abs(one - other) <= _RELATIVE * max(abs(one), abs(other)))
    return bool(one == other)


def _complete_facts(run: Path) -> Mapping[str, Any]:
    known, path = facts(run), run / "run.json"
    for key in _FACTS:
        if key not in known:
            raise RunError(f"{path}: {key}: missing (accepted: the run.json of a complete run)")
    if known["status"] != "complete":
        raise RunError(f"{path}: status = {known['status']!r} (accepted: 'complete')")
    if known["schema_version"] != SCHEMA_VERSION:
        raise RunError(f"{path}: schema_version = {known['schema_version']!r} (accepted: {SCHEMA_VERSION})")
    return known


def _parts(run: Path) -> Iterator[Path]:
    """Yield the folders of the calibrations and simulations of a comparison."""
    if (run / CALIBRATIONS).is_dir():
        yield from sorted((run / CALIBRATIONS).iterdir())
    yield from (run / name for name in CLOSED_LOOP.values() if (run / name).is_dir())


def _tables_of(run: Path) -> Iterator[tuple[Path, str]]:
    for name in SCHEMAS:
        if (path := run / f"{name}.parquet").is_file():
            yield path, name
        yield from ((path, name) for path in sorted((run / name).glob("*.parquet")))


def _check_table(path: Path, name: str, declared: pa.Schema, known: Mapping[str, Any], required: set[str]) -> set[str]:
    """Return the columns that a table file lacks and need not have.

    Raises
    ------
    RunError
        If the file is missing or damaged, is of another run, lacks a required column, or has one of another type or one
        that is not declared.
    """
    try:
        found = pq.read_schema(path)
    except FileNotFoundError:
        raise RunError(f"{path}: missing (accepted: the table {name} of the run)") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: cannot be read: {error} (accepted: a Parquet file)") from None
    stated = {key.decode(): value.decode(errors="replace") for key, value in (found.metadata or {}).items()}
    expected = {"schema_version": str(SCHEMA_VERSION), "table": name, "run_id": known["run_id"]}
    optional = {"study": known["study"], "study_fingerprint": known["study_fingerprint"], "seed": str(known["seed"])}
    expected |= {key: value for key, value in optional.items() if key in stated}
    for key, value in expected.items():
        if stated.get(key) != value:
            raise RunError(f"{path}: {key} = {stated.get(key)!r} (accepted: {value!r})")
    absent = set()
    for field in declared:
        if field.name not in found.names and field.name not in required:
            absent.add(f"{name}.{field.name}")
            continue
        if field.name not in found.names:
            raise RunError(f"{path}: {field.name}: missing (accepted: the columns that mifsim columns {name} lists)")
        if found.field(field.name).type != field.type:
            raise RunError(f"{path}: {field.name}: is {found.field(field.name).type} (accepted: {field.type})")
    for column in found.names:
        # Searched parameters are additional columns of some tables.
        if column not in declared.names and not (name in SCHEMAS and column.startswith("param_")):
            raise RunError(f"{path}: {column}: not a column of {name} (accepted: {', '.join(declared.names)})")
    return absent


def _check_digests(run: Path, known: Mapping[str, Any]) -> Digests:
    recorded = known.get("digests")
    if recorded is None:
        return "not recorded"
    found = result_digests(run)
    for name in sorted({*recorded, *found}):
        if found.get(name) != recorded.get(name):
            raise RunError(
                f"{run / name}: {'missing' if name not in found else 'SHA-256 ' + found[name]}: run.json records "
                f"digests.{name} = {recorded.get(name)!r} (accepted: the file as the run wrote it)"
            )
    return "equal"
