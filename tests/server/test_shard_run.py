"""Progress of a shard: the work that an ETA is computed from, during and after its sessions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mifsim.server.client_specs import client_specs, expected_queries
from mifsim.server.environment import Environment
from mifsim.server.shard_run import NullSink, Reply, run_clients
from tests.small import small_study

ATTACK = {"attack": "mi-face", "noise": 0.002, "labels": [0, 3], "budget_queries": 25, "beta": 0, "gamma": 0.0}
ROTATING = {**ATTACK, "name": "rotating", "evasions": [{"rotate": 4}]}


@pytest.mark.parametrize("attacks", [[ATTACK], [ATTACK, ROTATING]])
def test_the_work_done_grows_with_every_query_and_ends_at_the_expected_work(
    attacks: list[dict[str, object]], tmp_path: Path
) -> None:
    study = small_study(attacks=attacks)
    environment = Environment.load(study, tmp_path, {})
    specs = list(client_specs(study, 10))
    steps = run_clients(specs, environment, [], NullSink())
    batch = next(steps)
    # After the first round every client has sent one image. No first image is refused, and no client has ended.
    assert environment.counters.sessions == 0
    assert environment.counters.work == len(specs)
    seen = [environment.counters.work]
    try:
        while True:
            confidence = np.full((len(batch.images), 10), 0.1, np.float32)
            batch = steps.send(Reply(confidence, batch.images[batch.gradient_of >= 0]))
            seen.append(environment.counters.work)
    except StopIteration:
        pass
    populations = list(study.populations)
    expected = sum(expected_queries(populations[spec.population]) for spec in specs)
    assert environment.counters.sessions == len(specs)
    assert environment.counters.work == pytest.approx(expected)
    assert len(seen) > 20
    assert max(seen) <= expected + len(specs) * 10  # a client with more queries than expected is corrected when it ends
