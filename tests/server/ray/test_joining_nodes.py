"""A run on a cluster that loses a node, and to which another one is added."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mifsim.run import simulate as simulation
from mifsim.server.environment import Counters
from mifsim.tables.records import read_table
from tests.small import small_study


@pytest.mark.slow
def test_hosts_are_replaced_when_a_node_joins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    from mifsim.server.ray import backend as ray_backend
    from mifsim.server.ray import dispatch
    from tests.chaos.setups import QUICK_FAIL_OVER, cluster

    ray.shutdown()
    users = [{"user": "retries", "sessions": 2000, "length": 60, "probability": 0.2}]
    study = small_study(users=users, attacks=[], server={"sessions_per_host": 60}, leakage={"enabled": False})
    local = simulation.simulate(study, tmp_path / "local", backend="in-process")
    events: list[str] = []

    class Events(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            events.append(record.getMessage())

    caplog.set_level(logging.INFO, logger="mifsim")
    monkeypatch.setattr(dispatch.logger, "handlers", [Events()])
    original = ray_backend.OnRay.run
    with cluster(num_cpus=2, _system_config=QUICK_FAIL_OVER) as ray_cluster:
        second = ray_cluster.add_node(num_cpus=2)

        def run(
            self: ray_backend.OnRay, job: Any, model: Any, shards: Any, on_progress: Callable[[Counters], None]
        ) -> None:
            def disturb(done: Counters) -> None:
                if not events and done.queries:
                    events.append("killed")
                    ray_cluster.remove_node(second, allow_graceful=False)
                elif len(events) == 2:
                    events.append("added")
                    ray_cluster.add_node(num_cpus=2)
                on_progress(done)

            original(self, job, model, shards, disturb)

        monkeypatch.setattr(ray_backend.OnRay, "run", run)
        remote = simulation.simulate(study, tmp_path / "remote", address=ray_cluster.address)
        ray.shutdown()
    for table in ("sessions", "queries"):
        expected, actual = (read_table(folder, table).to_pandas() for folder in (local, remote))
        pd.testing.assert_frame_equal(actual, expected, check_exact=True)
    killed, lost, added, *restored = events
    assert (killed, added) == ("killed", "added"), events
    assert "continuing with 1 of 3 session hosts" in lost
    # One line for each host that starts separately, or one line for both if they start together.
    assert 1 <= len(restored) <= 2, events
    assert all("the cluster has 4 CPUs on 2 nodes again: continuing with" in event for event in restored)
    assert restored[-1].endswith("continuing with 3 session hosts")
