"""Comparison of the rows of runs, and a backend that is interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa

from mifsim.server.backend import InProcess
from mifsim.server.environment import Counters
from mifsim.tables.records import read_single, read_table

TABLES = ("sessions", "queries", "snapshots", "leakage")


def tables(run: Path) -> dict[str, pa.Table]:
    return {name: read_table(run, name) for name in TABLES}


def assert_same_rows(one: Path, other: Path) -> None:
    expected, got = tables(one), tables(other)
    for name in TABLES:
        pd.testing.assert_frame_equal(got[name].to_pandas(), expected[name].to_pandas(), check_exact=True, obj=name)
    sets = [read_single(run / "leakage_sets.parquet", "leakage_sets").to_pandas() for run in (one, other)]
    pd.testing.assert_frame_equal(*sets, check_exact=True, obj="leakage_sets")


class InterruptAfter(InProcess):
    """The in-process backend, interrupted after a number of batches."""

    def __init__(self, batches: int) -> None:
        self.remaining = batches

    def run(self, job: object, model: object, shards: object, on_progress: Callable[[Counters], None]) -> None:
        def stop(done: Counters) -> None:
            self.remaining -= 1
            if self.remaining == 0:
                raise KeyboardInterrupt
            on_progress(done)

        super().run(job, model, shards, stop)
