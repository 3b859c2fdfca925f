"""Whole simulations on Ray: the same rows whatever the hosts, copies of the model and deaths on the way."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mifsim.clients import names
from mifsim.errors import RunError
from mifsim.run import simulate as simulation
from mifsim.server.environment import Counters
from mifsim.tables.records import read_table
from tests.run.test_simulate import assert_same_rows
from tests.small import small_study


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study, run in this process."""
    return simulation.simulate(small_study(), tmp_path_factory.mktemp("runs") / "alone", backend="in-process")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    from mifsim.server.ray.cluster import connect

    connect(None)
    yield
    ray.shutdown()


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_rows_are_the_same_on_ray_with_any_number_of_hosts(
    hosts: int, alone: Path, cluster: None, tmp_path: Path
) -> None:
    run = simulation.simulate(small_study(server={"hosts": hosts}), tmp_path / "run")
    assert_same_rows(alone, run)


def test_the_rows_are_the_same_with_two_copies_of_the_model(alone: Path, cluster: None, tmp_path: Path) -> None:
    study = small_study(server={"hosts": 2, "model_replicas": 2})
    assert_same_rows(alone, simulation.simulate(study, tmp_path / "run"))


def test_copies_of_the_model_that_differ_are_refused_or_the_few_given_up(
    cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mifsim")
    import ray

    from mifsim.server.ray.models import Models, drop_divergent_replicas

    @ray.remote(num_cpus=0)
    class Copy:
        def __init__(self, last_bit: float) -> None:
            self._confidence = np.full((8, 10), 0.1, np.float32) + np.float32(last_bit)

        def predict(self, images: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            assert len(images) == 8
            return self._confidence, images[wanted >= 0]

    copies = [Copy.remote(last_bit) for last_bit in (1e-8, 0, 0)]
    three = Models(copies, ["a", "b", "c"])
    two = Models(copies[1:], ["b", "c"])
    asked = small_study(server={"model_replicas": 3})
    assert drop_divergent_replicas(two, asked) == two
    with pytest.raises(RunError, match=r"model_replicas = 3: copies 0 and 1 .* different answers .* accepted here: 1"):
        drop_divergent_replicas(three, asked)
    assert drop_divergent_replicas(three, small_study()) == two
    assert "going on with the 2 that agree" in caplog.text

    def ask_until_it_is_gone() -> None:
        while True:  # Ray ends an actor a moment after it was told to
            ray.get(copies[0].predict.remote(np.zeros((8, 1)), np.zeros(8)))

    with pytest.raises(ray.exceptions.RayActorError):
        ask_until_it_is_gone()


def test_a_cluster_that_others_hold_is_waited_for_aloud_and_given_up(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mifsim")
    import ray

    from mifsim.server.ray import cluster as ray_cluster

    monkeypatch.setattr(ray_cluster, "REPORT_SECONDS", 0.5)
    monkeypatch.setattr(ray_cluster, "START_SECONDS", 1.0)

    @ray.remote
    class Other:
        def remote(self) -> None: ...

    cpus = int(ray.cluster_resources()["CPU"])
    others = [Other.options(num_cpus=1).remote() for _ in range(cpus)]
    ray.get([other.remote.remote() for other in others])
    try:
        with pytest.raises(RunError, match=r"have no place .* of which 0 CPUs .* are free; given up after 1 s"):
            simulation.simulate(small_study(server={"hosts": 1}), tmp_path / "run")
    finally:
        for other in others:
            ray.kill(other)
    assert "waiting: 2 of 2 actors have no place" in caplog.text
    assert not (tmp_path / "run").exists()


def test_the_rows_are_the_same_with_an_actor_a_session(alone: Path, cluster: None, tmp_path: Path) -> None:
    study = small_study(server={"hosts": 2, "sessions_per_host": 1})
    assert_same_rows(alone, simulation.simulate(study, tmp_path / "run"))


def test_clients_of_several_sessions_are_the_same_everywhere(cluster: None, tmp_path: Path) -> None:
    plain = {"attack": "mi-face", "noise": 0.002, "labels": [0, 3], "budget_queries": 30, "beta": 0, "gamma": 0.0}
    evasion_rows = [[{"rotate": 4}, {"decoys": 1}], [{"interleave": 3}, {"noise": 0.05}], [{"probe": 2}]]
    attacks = [{**plain, "evasions": evasions} for evasions in evasion_rows]
    here = simulation.simulate(small_study(attacks=attacks), tmp_path / "here", backend="in-process")
    sessions = read_table(here, "sessions").to_pandas()
    assert not sessions["outcome"].eq("failed").any()
    spent = sessions[sessions["role"] == "attacker"].groupby(["filter", "client_id"], observed=True)
    assert spent["queries"].sum().le(30).all()
    # Rotation: a session is left after 4 queries of the attack, each with a decoy, so 30 queries take at least 4 of
    # them; how many more depends on where the filter ends one, and so on the victim that this machine trained.
    assert spent.size().max() >= 4
    on_ray = simulation.simulate(small_study(attacks=attacks, server={"hosts": 2}), tmp_path / "ray")
    assert_same_rows(here, on_ray)


@pytest.mark.slow
def test_attackers_that_fit_and_train_networks_are_the_same_everywhere(cluster: None, tmp_path: Path) -> None:
    attacks: list[dict[str, Any]] = [
        {"attack": "mi-face-numeric", "space": "autoencoder"},
        {"attack": "nes", "space": "pca"},
        {"attack": "spsa"},
        {"attack": "brep"},
        {"attack": "genetic"},
        {"attack": "inversion-network", "images": 60, "steps": 100},
        {"attack": "error-rate", "images": 10, "draws": 5, "steps": 100},
    ]
    assert {attack["attack"] for attack in attacks} == set(names("attacker")) - {"mi-face"}
    attacks = [{**attack, "labels": [0, 3], "budget_queries": 120} for attack in attacks]
    here = simulation.simulate(small_study(attacks=attacks), tmp_path / "here", backend="in-process")
    assert not read_table(here, "sessions").to_pandas()["outcome"].eq("failed").any()
    for hosts in (1, 2):
        study = small_study(attacks=attacks, server={"hosts": hosts})
        assert_same_rows(here, simulation.simulate(study, tmp_path / f"{hosts} hosts"))


def test_the_model_may_die_without_a_row_changing(
    alone: Path, cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from mifsim.server.ray import backend as ray_backend
    from mifsim.server.ray import dispatch as dispatch

    killed: list[int] = []
    original = ray_backend.OnRay.run

    def run(
        self: ray_backend.OnRay, job: object, model: object, shards: object, on_progress: Callable[[Counters], None]
    ) -> None:
        def kill_once(done: Counters) -> None:
            if not killed and done.queries:
                actor = ray.get_actor(ray.util.list_named_actors()[-1])
                killed.append(ray.get(actor.facts.remote())["pid"])
                os.kill(killed[0], signal.SIGKILL)
            on_progress(done)

        original(self, job, model, shards, kill_once)

    monkeypatch.setattr(ray_backend.OnRay, "run", run)
    monkeypatch.setattr(dispatch, "POLL_SECONDS", 0.01)
    assert_same_rows(alone, simulation.simulate(small_study(server={"hosts": 1}), tmp_path / "run"))
    assert killed


@pytest.mark.slow
def test_a_node_that_joins_takes_the_place_of_a_lost_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    from mifsim.server.ray import backend as ray_backend
    from tests.chaos.stages import QUICK_FAIL_OVER, cluster

    ray.shutdown()
    users = [{"user": "retries", "sessions": 2000, "length": 60, "probability": 0.2}]
    study = small_study(users=users, attacks=[], server={"sessions_per_host": 60}, leakage={"enabled": False})
    here = simulation.simulate(study, tmp_path / "here", backend="in-process")
    events: list[str] = []

    class Reports(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "going on with" in record.getMessage():
                events.append(record.getMessage())

    caplog.set_level(logging.INFO, logger="mifsim")
    monkeypatch.setattr(logging.getLogger("mifsim"), "handlers", [Reports()])
    original = ray_backend.OnRay.run
    with cluster(num_cpus=2, _system_config=QUICK_FAIL_OVER) as made:
        second = made.add_node(num_cpus=2)

        def run(
            self: ray_backend.OnRay, job: Any, model: Any, shards: Any, on_progress: Callable[[Counters], None]
        ) -> None:
            def disturb(done: Counters) -> None:
                if not events and done.queries:
                    events.append("killed")
                    made.remove_node(second, allow_graceful=False)
                elif len(events) == 2:
                    events.append("added")
                    made.add_node(num_cpus=2)
                on_progress(done)

            original(self, job, model, shards, disturb)

        monkeypatch.setattr(ray_backend.OnRay, "run", run)
        remote = simulation.simulate(study, tmp_path / "there", address=made.address)
        ray.shutdown()
    for table in ("sessions", "queries"):
        expected, got = (read_table(folder, table).to_pandas() for folder in (here, remote))
        pd.testing.assert_frame_equal(got, expected, check_exact=True)
    assert len(events) == 4, events
    assert "going on with 1 of 3 session hosts" in events[1]
    assert "the cluster has 4 CPUs on 2 nodes again: going on with" in events[3]


def test_more_hosts_than_the_cluster_can_hold_are_refused_and_leave_no_run(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"server\.hosts = 100000: the cluster has .* CPUs on 1 node; accepted here: 1 to"
    ):
        simulation.simulate(small_study(server={"hosts": 100_000}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_hosts_do_not_see_is_refused_before_anything_is_written(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from mifsim.server.ray import backend as ray_backend

    def answer(sentinel: str) -> object:
        assert Path(sentinel).read_text() == Path(sentinel).name
        return ray.put("10.0.0.2")

    elsewhere = SimpleNamespace(missing_sentinel=SimpleNamespace(remote=answer))
    original = ray_backend.require_shared_folder
    monkeypatch.setattr(
        ray_backend, "require_shared_folder", lambda hosts, run, sentinel: original([*hosts, elsewhere], run, sentinel)
    )
    with pytest.raises(RunError, match=r"run: node 10\.0\.0\.2 does not see this folder; .*MIFSIM_CACHE_DIR"):
        simulation.simulate(small_study(server={"hosts": 1}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_session_hosts_start_without_tensorflow(cluster: None, tmp_path: Path) -> None:
    import ray

    from mifsim.server.backend import Job
    from mifsim.server.ray.backend import SessionHost

    @ray.remote(name="stand-in")
    class Model:
        async def facts(self) -> None: ...

    model = Model.remote()
    ray.get(model.facts.remote())

    host = SessionHost.remote(Job(small_study(), tmp_path, {}), ["stand-in"])
    loaded = ray.get(host.loaded_modules.remote())
    assert "mifsim" in loaded
    assert not {"tensorflow", "keras"} & set(loaded)


def test_a_host_answers_the_driver_while_a_client_trains_a_network(cluster: None, tmp_path: Path) -> None:
    import ray

    from mifsim.server.backend import Job
    from mifsim.server.client_specs import shards
    from mifsim.server.ray.backend import SessionHost

    @ray.remote(name="unsure", num_cpus=0)
    class Model:
        async def predict(self, images: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.full((len(images), 10), 0.1, np.float32), images[:0]

    model = Model.remote()
    attack = {"attack": "inversion-network", "images": 20, "steps": 300, "labels": [0]}
    study = small_study(attacks=[attack], users=[], filters=[{"none": True}], leakage={"enabled": False})
    host = SessionHost.remote(Job(study, tmp_path, {}), ["gone", "unsure"])
    (shard,) = shards(study, 10)
    running = host.run_shard.remote(shard)
    # All its queries are answered, and it trains: that this is told before the shard ends is what is to be shown.
    while ray.get(host.progress.remote()).queries < 20:
        assert not ray.wait([running], timeout=0.02)[0]
    assert not ray.wait([running], timeout=0)[0]
    assert ray.get(running) == shard.number
    ray.kill(model)
