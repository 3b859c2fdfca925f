"""A study replays the traffic log of a guard, from the path alone, and blocks every session where the guard did."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mifsim.data import load_data
from mifsim.defense import FilterConfig
from mifsim.run.simulate import simulate
from mifsim.tables.records import read_table
from tests.guard.guards import started, write_filter
from tests.guard.traffic_requests import AnyWire, logged, npy, png, sent, with_log
from tests.small import SMALL, small_study

FILTER = FilterConfig(t_ssim=0.3, t_hash=0.1, n_b=5, l_sp=6, ssim="uniform")
SHAPE = (28, 28)


async def write_traffic(folder: Path) -> None:
    """Write the log of a guard to which clients have sent digits, as PNG files and as exact arrays with noise."""
    write_filter(folder, FILTER, shape=SHAPE)
    guard = await started(with_log(folder), AnyWire(SHAPE))
    pool = load_data(small_study().data).subset("users")
    rng = np.random.default_rng(0)
    for client in range(6):
        for number in range(3 + 2 * client):
            image = pool.image(20 * client + number % 4)  # four digits, which come again
            noisy = np.clip(image + np.float32(0.02) * rng.standard_normal(SHAPE, np.float32), 0, 1)
            request = png([image], f"{client}") if client % 2 else npy([noisy], f"{client}")
            assert await sent(guard, request) in (200, 403)
    await guard.stop()


def test_a_study_replays_the_log_of_a_guard(tmp_path: Path) -> None:
    asyncio.run(write_traffic(tmp_path))
    strict = SMALL["filters"][1]
    users = {"user": "log", "path": str(tmp_path / "traffic"), "sessions": "all"}
    study = small_study(attacks=[], users=[users], filters=[strict])
    run = simulate(study, tmp_path / "run", backend="in-process")
    names = pq.read_table(run / "log_clients.parquet").to_pandas().set_index("client_id")["log_client"]
    queries = read_table(run, "queries").to_pandas().sort_values(["session_id", "query"])
    replayed = {
        names[session.partition("@")[0]]: list(
            zip(found["query"], found["suspicious_count"], found["verdict"], strict=True)
        )
        for session, found in queries.groupby("session_id", observed=True)
    }
    expected: dict[str, list[tuple[int, float, str]]] = {}
    for row in logged(tmp_path / "traffic"):
        expected.setdefault(row["client"], []).append((row["query"], row["count"], row["verdict"]))
    assert replayed == expected
    ends = [queries[-1][2] for queries in expected.values()]
    assert set(ends) == {"safe", "unsafe"}
    assert len(ends) == 6
