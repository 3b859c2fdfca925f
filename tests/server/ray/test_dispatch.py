"""Dispatch of shards: bounded memory, and the shards of lost hosts run on the remaining ones."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from mifsim.errors import ClusterError
from mifsim.server.client_specs import Shard, shards
from mifsim.server.environment import Counters
from mifsim.server.ray import cluster as ray_cluster
from mifsim.server.ray import dispatch as ray_dispatch
from mifsim.server.ray.placement import Placement
from tests.small import small_study


class Reference:
    """The substitute for an object reference."""

    def __init__(self, host: Host, shard: Shard | None = None) -> None:
        self.host, self.shard = host, shard


class Call:
    """The substitute for a remote method of a host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def remote(self, shard: Shard | None = None) -> Reference:
        assert not self._host.dead
        return Reference(self._host, shard)


@dataclass(eq=False)
class Host:
    """The substitute for a session host."""

    dead: bool = False
    missing_at: str = ""
    """Address of its node, if the node does not see the run's folder; empty otherwise."""

    @property
    def run_shard(self) -> Call:
        return Call(self)

    progress = pid = stop = missing_sentinel = run_shard


@dataclass
class FakeRay:
    """Ray that finishes one shard of a random host at a time; hosts on lost nodes neither answer nor run shards."""

    cpus: list[float]
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    lost: set[int] = field(default_factory=set)
    finished: list[int] = field(default_factory=list)
    alive_shards: int = 0
    events: dict[int, Any] = field(default_factory=dict)
    """Callables by the number of finished shards after which they run."""

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": cpus}} for cpus in self.cpus]

    def wait(self, references: list[Reference], num_returns: int = 1, timeout: float = 0) -> tuple[list, list]:
        ready = [reference for reference in references if id(reference.host) not in self.lost]
        if references and references[0].shard is not None:
            if len(self.finished) % 200 == 100:  # not every time: gc.get_objects is slow
                self.alive_shards = max(self.alive_shards, sum(type(item) is Shard for item in gc.get_objects()))
            ready = [self.rng.choice(ready)] if ready else []
            self.finished += [reference.shard.number for reference in ready]
            if event := self.events.pop(len(self.finished), None):
                event()
        return ready, [reference for reference in references if reference not in ready]

    def get(self, references: Any, timeout: float = 0) -> Any:
        if not isinstance(references, list):
            return references.host.missing_at
        return [Counters(queries=len(self.finished)) for _ in references]

    def kill(self, host: Host) -> None:
        host.dead = True


@pytest.fixture(autouse=True)
def _log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mifsim")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay([4.0])
    monkeypatch.setattr(ray_dispatch, "ray", ray)
    monkeypatch.setattr(ray_cluster, "ray", ray)
    monkeypatch.setattr(ray_dispatch, "CHECK_SECONDS", 0.0)
    return ray


def some_shards(count: int) -> Iterator[Shard]:
    users = [{"user": "independent", "sessions": count * 2, "length": 3}]
    study = small_study(attacks=[], users=users, filters=[{"none": True}], server={"sessions_per_host": 6})
    return shards(study, 10)


def test_only_shards_in_flight_are_in_memory(fake: FakeRay) -> None:
    hosts = [Host(), Host(), Host()]
    ray_dispatch.dispatch(hosts, some_shards(1500), lambda done: None, 2, Placement(3, 1, 1.0, 0))
    assert sorted(fake.finished) == list(range(1500))
    assert 3 * 2 <= fake.alive_shards <= 3 * 2 + 2  # and those just created or finished


def test_shards_of_a_lost_node_run_on_the_remaining_hosts(fake: FakeRay, caplog: pytest.LogCaptureFixture) -> None:
    hosts = [Host(), Host(), Host()]

    def lose() -> None:
        fake.cpus[:] = [2.0]
        fake.lost.update({id(hosts[0]), id(hosts[2])})

    fake.events[5] = lose
    ray_dispatch.dispatch(hosts, some_shards(40), lambda done: None, 2, Placement(3, 1, 1.0, 0))
    assert sorted(fake.finished) == list(range(40))
    assert [host.dead for host in hosts] == [True, False, True]
    assert "lost nodes, 2 CPUs on 1 node are left: continuing with 1 of 3 session hosts" in caplog.text


def test_a_responsive_host_is_ended_to_free_a_cpu_for_the_model(fake: FakeRay) -> None:
    hosts = [Host(), Host(), Host()]
    fake.events[5] = lambda: fake.cpus.__setitem__(slice(None), [3.0])
    ray_dispatch.dispatch(hosts, some_shards(40), lambda done: None, 2, Placement(3, 1, 1.0, 0))
    assert sorted(set(fake.finished)) == list(range(40))
    assert sum(host.dead for host in hosts) == 1


def test_removed_hosts_are_replaced_when_a_node_joins(fake: FakeRay, caplog: pytest.LogCaptureFixture) -> None:
    hosts = [Host(), Host(), Host()]
    started: list[Host] = []

    def start_replacement() -> tuple[Host, Reference]:
        started.append(Host())
        return started[-1], started[-1].missing_sentinel.remote()

    def lose() -> None:
        fake.cpus[:] = [2.0]
        fake.lost.update({id(hosts[0]), id(hosts[2])})

    fake.events[5] = lose
    fake.events[12] = lambda: fake.cpus.append(1.0)
    fake.events[20] = lambda: fake.cpus.append(16.0)
    ray_dispatch.dispatch(hosts, some_shards(60), lambda done: None, 2, Placement(3, 1, 1.0, 0), start_replacement)
    assert sorted(fake.finished) == list(range(60))
    assert len(started) == 2  # no more than planned, although there is capacity for more
    assert [host.dead for host in (*hosts, *started)] == [True, False, True, False, False]
    log = caplog.text
    assert "has 3 CPUs on 2 nodes again: continuing with 2 session hosts" in log
    assert "has 19 CPUs on 3 nodes again: continuing with 3 session hosts" in log


def lose_and_add_a_node(fake: FakeRay, host: Host) -> None:
    """Lose the node of one of two hosts, add a node, and start `host` on it; every shard must run exactly once."""
    hosts = [Host(), Host()]

    def lose() -> None:
        fake.cpus[:] = [2.0]
        fake.lost.add(id(hosts[0]))

    fake.events[5] = lose
    fake.events[12] = lambda: fake.cpus.append(1.0)
    ray_dispatch.dispatch(
        hosts,
        some_shards(40),
        lambda done: None,
        2,
        Placement(2, 1, 1.0, 0),
        lambda: (host, host.missing_sentinel.remote()),
    )
    assert sorted(fake.finished) == list(range(40))


def test_a_replacement_that_cannot_start_gets_no_shard_and_delays_no_other(fake: FakeRay) -> None:
    host = Host()
    fake.lost.add(id(host))  # other programs use the node that joined
    lose_and_add_a_node(fake, host)
    assert host.dead


def test_a_node_that_does_not_see_the_run_is_reported_and_gets_no_further_host(
    fake: FakeRay, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(missing_at="10.0.0.9")
    lose_and_add_a_node(fake, host)  # fails if the host is started a second time, since it is dead then
    assert host.dead
    assert "node 10.0.0.9, which joined, does not see the run's folder: no session host is started on it" in caplog.text


def test_a_cluster_without_capacity_for_a_host_is_reported(fake: FakeRay) -> None:
    hosts = [Host(), Host(), Host()]
    fake.events[5] = lambda: fake.cpus.__setitem__(slice(None), [1.0])
    with pytest.raises(ClusterError, match="has lost nodes: no capacity is left for a session host: 1 CPU on 1 node"):
        ray_dispatch.dispatch(hosts, some_shards(40), lambda done: None, 2, Placement(3, 1, 1.0, 0))


def test_a_stalled_run_is_reported(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_dispatch, "STALL_SECONDS", -1.0)
    fake.available_resources = lambda: {"CPU": 0.5}  # type: ignore[attr-defined]
    ray_dispatch.dispatch([Host()], some_shards(3), lambda done: None, 1, Placement(1, 1, 1.0, 0))
    log = caplog.text
    assert "no query was answered for -1 s; the cluster has 4 CPUs on 1 node; free CPUs: 0.5" in log
