"""Complete simulations on Ray: the same rows with any number of hosts and replicas, and after failures."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mifsim.clients import names
from mifsim.defense import KINDS
from mifsim.errors import RunError
from mifsim.run import simulate as simulation
from mifsim.server.environment import Counters
from mifsim.study import Study
from mifsim.tables.records import read_table
from tests.run.comparing import assert_same_rows
from tests.small import small_study

ONE, TWO, FOUR = (pytest.param(hosts, marks=pytest.mark.slow) for hosts in (1, 2, 4))
"""Numbers of session hosts that the slow tests try; each run starts its hosts and a model actor."""


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the small study in this process."""
    return simulation.simulate(small_study(), tmp_path_factory.mktemp("runs") / "in-process", backend="in-process")


@pytest.mark.parametrize("hosts", [ONE, TWO, 4])
def test_the_rows_are_the_same_on_ray_with_any_number_of_hosts(
    hosts: int, in_process: Path, local_ray: None, tmp_path: Path
) -> None:
    run = simulation.simulate(small_study(server={"hosts": hosts}), tmp_path / "run")
    assert_same_rows(in_process, run)


@pytest.fixture(scope="module")
def spread_in_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The attackers with several accounts or sessions of `spread_study`, run in this process."""
    return simulation.simulate(spread_study(), tmp_path_factory.mktemp("runs") / "spread", backend="in-process")


def spread_study(**server: Any) -> Study:
    attack = {"attack": "nes", "space": "pca", "coordinates": 4, "labels": [0, 3], "trials": 4, "budget_queries": 25}
    rows = [
        [{"accounts": 3}],
        [{"morph": 0.3}, {"accounts": {"order": "one-after-another"}}],
        [{"texture": 1.0}],
        [{"mimic": 0.25}, {"decoys": 2}],
        [{"texture": 1.0}, {"penalty": 1.0}],
    ]
    sessions = [[{"rotate": 4}, {"decoys": 1}], [{"interleave": 3}, {"noise": 0.05}], [{"probe": 2}]]
    attacks = [{**attack, "name": f"nes {number}", "evasions": evasions} for number, evasions in enumerate(rows)]
    plain = {"attack": "mi-face", "noise": 0.002, "labels": [0, 3], "budget_queries": 25, "beta": 0, "gamma": 0.0}
    attacks += [{**plain, "name": f"several {number}", "evasions": row} for number, row in enumerate(sessions)]
    quota = {"name": "quota", "kind": "quota", "queries": 4, "scope": "client"}
    return small_study(attacks=attacks, users=[], filters=[quota, {"none": True}], server=server)


@pytest.mark.parametrize("hosts", [ONE, 2, FOUR])
def test_the_rows_of_attackers_that_know_the_detectors_are_the_same_with_any_number_of_hosts(
    hosts: int, spread_in_process: Path, local_ray: None, tmp_path: Path
) -> None:
    assert_same_rows(spread_in_process, simulation.simulate(spread_study(hosts=hosts), tmp_path / "run"))


def study_of_all_kinds(**server: Any) -> Study:
    """Return a study with every kind of detector, each of which blocks some sessions."""
    near = {"kind": "evidence", "k": 1, "neighbours_radius": 3.0, "neighbours_leak": 0.0, "neighbours_limit": 3.0}
    filters: list[dict[str, Any]] = [
        {"kind": "ssim-hash", "t_ssim": 0.3, "t_hash": 0.1, "n_b": 5, "l_sp": 6},
        {**near, "scope": "client"},
        {"kind": "nearest", "radius": 3.0, "limit": 3},
        {"kind": "any-of", "of": [near, {"kind": "quota", "queries": 7}]},
        {"kind": "quota", "queries": 4, "scope": "client"},
        {"kind": "blacklight", "limit": 2, "scope": "client"},
        {"kind": "osd-l2", "threshold": 3.0, "k": 1, "limit": 3},
        {"kind": "osd-pca", "threshold": 3.0, "k": 1, "limit": 3},
        {"kind": "prada", "delta": 0.999, "min_distances": 3},
        {"kind": "none"},
    ]
    users = [{"user": name, "sessions": 3, "length": 16} for name in ("bursts", "retries")]
    return small_study(filters=[{"name": item["kind"], **item} for item in filters], users=users, server=server)


@pytest.fixture(scope="module")
def all_kinds_in_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `study_of_all_kinds` in this process."""
    run = tmp_path_factory.mktemp("runs") / "kinds"
    return simulation.simulate(study_of_all_kinds(), run, backend="in-process")


def test_every_kind_of_detector_blocks_some_sessions(all_kinds_in_process: Path) -> None:
    sessions = read_table(all_kinds_in_process, "sessions", ["filter", "outcome"]).to_pandas()
    blocked = sessions["outcome"].eq("blocked").groupby(sessions["filter"].astype(str)).sum()
    assert set(blocked.index) == {kind for kind in KINDS if KINDS.origin_of(kind) is None}
    assert set(blocked.index[blocked == 0]) == {"none"}


@pytest.mark.parametrize("hosts", [ONE, 2, FOUR])
def test_the_rows_of_every_kind_of_detector_are_the_same_with_any_number_of_hosts(
    hosts: int, all_kinds_in_process: Path, local_ray: None, tmp_path: Path
) -> None:
    assert_same_rows(all_kinds_in_process, simulation.simulate(study_of_all_kinds(hosts=hosts), tmp_path / "run"))


@pytest.mark.slow
def test_the_rows_are_the_same_with_two_replicas_of_the_model(
    in_process: Path, local_ray: None, tmp_path: Path
) -> None:
    study = small_study(server={"hosts": 2, "model_replicas": 2})
    assert_same_rows(in_process, simulation.simulate(study, tmp_path / "run"))


def test_replicas_that_differ_are_refused_or_the_minority_is_ended(
    local_ray: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mifsim")
    import ray

    from mifsim.server.ray.models import Models, drop_divergent_replicas

    @ray.remote(num_cpus=0)
    class Replica:
        def __init__(self, last_bit: float) -> None:
            self._confidence = np.full((8, 10), 0.1, np.float32) + np.float32(last_bit)

        def predict(self, images: np.ndarray, gradient_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            assert len(images) == 8
            return self._confidence, images[gradient_of >= 0]

    replicas = [Replica.remote(last_bit) for last_bit in (1e-8, 0, 0)]
    three = Models(replicas, ["a", "b", "c"])
    two = Models(replicas[1:], ["b", "c"])
    study = small_study(server={"model_replicas": 3})
    assert drop_divergent_replicas(two, study) == two
    with pytest.raises(
        RunError, match=r"model_replicas = 3: replicas 0 and 1 .* different answers .* accepted on this cluster: 1"
    ):
        drop_divergent_replicas(three, study)
    assert drop_divergent_replicas(three, small_study()) == two
    assert "continuing with the 2 that agree" in caplog.text

    def query_until_it_has_ended() -> None:
        while True:  # Ray ends a killed actor with a delay
            ray.get(replicas[0].predict.remote(np.zeros((8, 1)), np.zeros(8)))

    with pytest.raises(ray.exceptions.RayActorError):
        query_until_it_has_ended()


def test_waiting_for_a_busy_cluster_is_logged_and_times_out(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mifsim")
    import ray

    from mifsim.server.ray import cluster as ray_cluster

    monkeypatch.setattr(ray_cluster, "REPORT_SECONDS", 0.5)
    monkeypatch.setattr(ray_cluster, "START_SECONDS", 1.0)

    @ray.remote
    class Other:
        def up(self) -> None: ...

    cpus = int(ray.cluster_resources()["CPU"])
    others = [Other.options(num_cpus=1).remote() for _ in range(cpus)]
    ray.get([other.up.remote() for other in others])
    try:
        with pytest.raises(RunError, match=r"are not placed .* of which 0 CPUs .* are free; timed out after 1 s"):
            simulation.simulate(small_study(server={"hosts": 1}), tmp_path / "run")
    finally:
        for other in others:
            ray.kill(other)
    assert "waiting: 2 of 2 actors are not placed" in caplog.text
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_rows_are_the_same_with_one_session_per_host(in_process: Path, local_ray: None, tmp_path: Path) -> None:
    study = small_study(server={"hosts": 2, "sessions_per_host": 1})
    assert_same_rows(in_process, simulation.simulate(study, tmp_path / "run"))


def test_clients_change_their_sessions_and_spend_no_more_than_their_budget(spread_in_process: Path) -> None:
    sessions = read_table(spread_in_process, "sessions").to_pandas()
    assert not sessions["outcome"].eq("failed").any()
    several = sessions[sessions["population"].astype(str).str.startswith("several")]
    spent = several.groupby(["filter", "client_id"], observed=True)
    assert spent["queries"].sum().le(25).all()
    # With rotation, the attacker leaves a session after 4 queries of the attack, each with a decoy, so 25 queries take
    # at least 4 sessions.
    assert spent.size().max() >= 4


@pytest.mark.slow
def test_attackers_that_train_models_give_the_same_rows_on_ray(local_ray: None, tmp_path: Path) -> None:
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
    local = simulation.simulate(small_study(attacks=attacks), tmp_path / "local", backend="in-process")
    assert not read_table(local, "sessions").to_pandas()["outcome"].eq("failed").any()
    for hosts in (1, 2):
        study = small_study(attacks=attacks, server={"hosts": hosts})
        assert_same_rows(local, simulation.simulate(study, tmp_path / f"{hosts} hosts"))


def test_the_rows_are_the_same_when_the_model_is_killed(
    in_process: Path, local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from mifsim.server.ray import backend as ray_backend
    from mifsim.server.ray import dispatch

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
    assert_same_rows(in_process, simulation.simulate(small_study(server={"hosts": 1}), tmp_path / "run"))
    assert killed


def test_too_many_hosts_are_refused_before_anything_is_written(local_ray: None, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"server\.hosts = 100000: the cluster has .* CPUs on 1 node; accepted on this cluster: 1 to"
    ):
        simulation.simulate(small_study(server={"hosts": 100_000}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_hosts_do_not_see_is_refused_before_anything_is_written(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from mifsim.server.ray import backend as ray_backend

    def answer(sentinel: str) -> object:
        assert Path(sentinel).read_text() == Path(sentinel).name
        return ray.put("10.0.0.2")

    unmounted_host = SimpleNamespace(missing_sentinel=SimpleNamespace(remote=answer))
    original = ray_backend.require_shared_folder
    monkeypatch.setattr(
        ray_backend,
        "require_shared_folder",
        lambda hosts, run, sentinel: original([*hosts, unmounted_host], run, sentinel),
    )
    with pytest.raises(RunError, match=r"run: node 10\.0\.0\.2 does not see this folder; .*MIFSIM_CACHE_DIR"):
        simulation.simulate(small_study(server={"hosts": 1}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_session_hosts_start_without_tensorflow(local_ray: None, tmp_path: Path) -> None:
    import ray

    from mifsim.server.backend import Job
    from mifsim.server.ray.backend import SessionHost

    @ray.remote(name="substitute")
    class Model:
        async def facts(self) -> None: ...

    model = Model.remote()
    ray.get(model.facts.remote())

    host = SessionHost.remote(Job(small_study(), tmp_path, {}), ["substitute"])
    loaded = ray.get(host.loaded_modules.remote())
    assert "mifsim" in loaded
    assert not {"tensorflow", "keras"} & set(loaded)


def test_a_host_answers_the_driver_while_a_client_trains_a_network(local_ray: None, tmp_path: Path) -> None:
    import ray

    from mifsim.server.backend import Job
    from mifsim.server.client_specs import shards
    from mifsim.server.ray.backend import SessionHost

    @ray.remote(name="unsure", num_cpus=0)
    class Model:
        async def predict(self, images: np.ndarray, gradient_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.full((len(images), 10), 0.1, np.float32), images[:0]

    model = Model.remote()
    attack = {"attack": "inversion-network", "images": 20, "steps": 300, "labels": [0]}
    study = small_study(attacks=[attack], users=[], filters=[{"none": True}])
    host = SessionHost.remote(Job(study, tmp_path, {}), ["ended", "unsure"])
    (shard,) = shards(study, 10)
    running = host.run_shard.remote(shard)
    # All its queries are answered, and the client trains: the host must report this before the shard ends.
    while ray.get(host.progress.remote()).queries < 20:
        assert not ray.wait([running], timeout=0.02)[0]
    assert not ray.wait([running], timeout=0)[0]
    assert ray.get(running) == shard.number
    ray.kill(model)
