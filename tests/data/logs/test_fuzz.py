"""A fuzzed log: nothing crashes, every bad row is counted and named, and the memory stays flat.

``make fuzz`` reads a million rows, and prints the time and the memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.data.logs import fuzz

ROWS = int(os.environ.get("MIFSIM_FUZZ_ROWS", "3000"))
MEMORY_MIB = 600


def read_in_a_process(folder: Path, cache: Path) -> dict[str, object]:
    """Read a log in a new process, whose peak memory is that of reading it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.logs.fuzz", str(folder)],
        env={**os.environ, "MIFSIM_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("seed", [1])
def test_a_fuzzed_log_is_read_and_each_bad_row_counted(seed: int, tmp_path: Path) -> None:
    totals = fuzz.write_log(tmp_path / "log", ROWS, seed)
    found = read_in_a_process(tmp_path / "log", tmp_path / "cache")
    print(json.dumps({**totals, **found}))
    assert found["rows"] == sum(totals.values()) == ROWS
    assert totals["bad"] <= found["bad"] <= totals["bad"] + totals["either"]
    assert found["named"] == found["bad"] == sum(found["problems"].values())
    assert found["images"] == ROWS - found["bad"] - found["copies"]
    assert found["peak_mib"] < MEMORY_MIB


def test_the_rows_that_are_bad_are_those_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "cache"))
    fuzz.write_log(tmp_path / "log", 900, seed=2)
    named: dict[str, set[int | None]] = {}
    for row in fuzz.open_log(tmp_path / "log").bad:
        named.setdefault(row.file, set()).add(row.row)
        assert row.problem
    files = sorted((tmp_path / "log").rglob("*.parquet"))
    assert len(files) == 3
    for file in files:
        known = pq.read_table(file, columns=["known"])["known"].to_pylist()
        bad = {number for number, word in enumerate(known) if word == "bad"}
        good = {number for number, word in enumerate(known) if word == "good"}
        assert bad <= named[str(file)]
        assert not good & named[str(file)]
