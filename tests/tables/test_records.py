"""Tables on disk: schemas with further columns, and files that are refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mifsim.defense import FilterConfig, NoDefenseConfig
from mifsim.defense.space import SearchSpace
from mifsim.errors import RunError
from mifsim.tables.columns import with_columns
from mifsim.tables.records import SCHEMA_VERSION, SCHEMAS, TableWriter, describe, open_table, read_single
from tuning.params import config_columns, param_schema

SPACE = SearchSpace.parse("ssim-hash", {})
CONFIGS = [FilterConfig(0.9, 0.1, 2, 3, ssim="uniform"), NoDefenseConfig()]
PARAMS = [
    "param_t_ssim",
    "param_t_hash",
    "param_n_b",
    "param_l_sp",
    "param_ssim",
    "param_count_rule",
    "param_hash_size",
]


def write_trials(folder: Path, name: str = "trials.parquet") -> Path:
    with TableWriter(folder / "trials" / name, "trials", {"run_id": "r-1"}, param_schema("trials", SPACE)) as writer:
        other_columns = {
            name: [0, 1] if name in ("trial", "sessions_replayed") else [0.5, 0.25]
            for name in SCHEMAS["trials"].names
            if name not in ("kind", "config")
        }
        writer.write({**config_columns(CONFIGS, SPACE), **other_columns})
    return folder / "trials" / name


def test_every_parameter_of_the_searched_kind_has_a_column_after_the_configuration(tmp_path: Path) -> None:
    assert param_schema("trials", SPACE).names == [
        *SCHEMAS["trials"].names[:3], *PARAMS, *SCHEMAS["trials"].names[3:]
    ]  # fmt: skip
    assert all(field.metadata[b"description"] for field in param_schema("trials", SPACE))
    write_trials(tmp_path)
    rows = open_table(tmp_path, "trials").to_table().to_pylist()
    assert [rows[0][name] for name in PARAMS] == [0.9, 0.1, 2, 3, "uniform", "per_match", 8]
    assert [rows[1][name] for name in PARAMS] == [None] * 7  # a configuration of another kind
    assert [row["kind"] for row in rows] == ["ssim-hash", "none"]
    for table in ("pareto", "certification"):
        assert [name for name in param_schema(table, SPACE).names if name.startswith("param_")] == PARAMS


def test_further_columns_come_after_the_named_column_or_last() -> None:
    further = {"more": (pa.int64(), "of it")}
    assert with_columns("observations", further).names == ["session_id", "query", "valid", "more"]
    assert with_columns("observations", further, after="query").names == ["session_id", "query", "more", "valid"]


def test_rows_that_do_not_fit_the_schema_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="do not match the schema"),
        TableWriter(tmp_path / "t.parquet", "observations", {}) as writer,
    ):
        writer.write({"session_id": ["a"], "query": [1]})
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_another_schema_version_is_refused(tmp_path: Path) -> None:
    assert SCHEMA_VERSION == 2
    path = write_trials(tmp_path)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"schema_version": b"1"}), path)
    for read in (lambda: open_table(tmp_path, "trials"), lambda: read_single(path, "trials")):
        with pytest.raises(RunError, match=r"trials\.parquet: schema_version is 1 \(accepted: 2\)"):
            read()


def test_a_table_that_lacks_a_column_or_is_damaged_is_named(tmp_path: Path) -> None:
    path = write_trials(tmp_path)
    pq.write_table(pq.read_table(path).drop(["kind", "config"]), path)
    with pytest.raises(RunError, match=r"trials\.parquet: missing columns: kind, config"):
        read_single(path, "trials")
    path.write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"trials\.parquet: cannot be read"):
        read_single(path, "trials")
    with pytest.raises(RunError, match=r"trials\.parquet: cannot be read"):
        open_table(tmp_path, "trials")
    with pytest.raises(RunError, match="no such file"):
        read_single(tmp_path / "pareto.parquet", "pareto")
    with pytest.raises(RunError, match=r"has no pareto/\*\.parquet"):
        open_table(tmp_path, "pareto")


def test_tables_of_sessions_and_configurations_have_kind_and_config_columns() -> None:
    for table in ("sessions", "trials", "pareto", "certification"):
        names = SCHEMAS[table].names
        assert names[names.index("kind") + 1] == "config"
    assert SCHEMAS["sessions"].field("suspicious_count").type == pa.float64()
    assert SCHEMAS["queries"].field("suspicious_count").type == pa.float64()
    assert "similarities" not in SCHEMAS
    assert {column for _, column, _, _ in describe("observations")} == {"session_id", "query", "valid"}
