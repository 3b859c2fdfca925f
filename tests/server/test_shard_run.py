"""What a shard tells of its progress: work that an ETA can go by, while sessions run and when they have ended."""

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
def test_the_work_done_grows_with_every_query_and_ends_as_what_was_expected(
    attacks: list[dict[str, object]], tmp_path: Path
) -> None:
    study = small_study(attacks=attacks)
    environment = Environment.load(study, tmp_path, {})
    todo = list(client_specs(study, 10))
    steps = run_clients(todo, environment, [], NullSink())
    batch = next(steps)
    # The first round: everybody has sent one image, none of which can be refused, and nobody is through.
    assert environment.counters.sessions == 0
    assert environment.counters.work == len(todo)
    seen = [environment.counters.work]
    try:
        while True:
            sure = np.full((len(batch.images), 10), 0.1, np.float32)
            batch = steps.send(Reply(sure, batch.images[batch.gradient_of >= 0]))
            seen.append(environment.counters.work)
    except StopIteration:
        pass
    populations = list(study.populations)
    whole = sum(expected_queries(populations[spec.population]) for spec in todo)
    assert environment.counters.sessions == len(todo)
    assert environment.counters.work == pytest.approx(whole)
    assert len(seen) > 20
    assert max(seen) <= whole + len(todo) * 10  # who asks more often than expected is counted down in the end
