"""Processor time that a session host needs for a query, with a model that answers at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mifsim.clients import names
from mifsim.defense import DetectorBatch
from mifsim.server.client_specs import shards
from mifsim.server.environment import Environment
from mifsim.server.shard_run import Reply, run_shard
from mifsim.study import Study

SESSIONS, QUERIES = 256, 50
ROUNDS = 3
MOST = {"independent": 5.0}
"""Targets in µs a query; that of all other kinds is `SLOWEST`."""
SLOWEST = 20.0


class OneByOne(Environment):
    """The baseline: every user is advanced alone, with a detector of its own."""

    def detectors(self, filter_: int, sessions: int) -> DetectorBatch | None:
        return None


def microseconds(environment: Environment) -> float:
    """Run all sessions, from seeds to Parquet files; return the processor time of a query."""
    before, started_at = environment.counters.queries, time.process_time()
    for shard in shards(environment.study, 10):
        steps = run_shard(shard, environment)
        try:
            batch = next(steps)
            while True:
                confidence = np.full((len(batch.images), 10), 0.1, np.float32)
                batch = steps.send(Reply(confidence, batch.images[:0]))
        except StopIteration:
            pass
    return (time.process_time() - started_at) / (environment.counters.queries - before) * 1e6


@pytest.mark.parametrize("kind", [name for name in names("user") if name not in ("log", "long-sessions")])
def test_processor_time_of_a_query(kind: str, tmp_path: Path, measured: Callable[..., None]) -> None:
    study = Study.parse(
        {
            "name": "bench",
            "server": {"sessions_per_host": 3 * SESSIONS},
            "filters": [{"name": "paper 3", "t_ssim": 0.999, "t_hash": 0.001, "n_b": 10, "l_sp": 4}],
            "users": [{"user": kind, "sessions": SESSIONS, "length": QUERIES, "repeat_images": True}],
        }
    )
    together, alone = Environment.load(study, tmp_path, {}), OneByOne.load(study, tmp_path, {})
    times = [(microseconds(alone), microseconds(together)) for _ in range(ROUNDS)]
    one_by_one, at_once = (min(column) for column in zip(*times, strict=True))
    measured(f"a query of {kind} in a session host, null model", at_once, MOST.get(kind, SLOWEST), "µs")
    measured(f"the same, against users that are advanced one by one ({one_by_one:.1f} µs)", at_once / one_by_one, 1.0)
