"""Handing out shards: nothing piles up, and what a lost host had under way is run by the others."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from mifsim.errors import ClusterError
from mifsim.server.client_specs import Shard, shards
from mifsim.server.environment import Counters
from mifsim.server.ray import cluster as ray_cluster
from mifsim.server.ray import dispatch as handing
from mifsim.server.ray.placement import Placement
from tests.small import small_study


class Reference:
    """What a call returns at once."""

    def __init__(self, host: Host, shard: Shard | None = None) -> None:
        self.host, self.shard = host, shard


class Call:
    def __init__(self, host: Host) -> None:
        self._host = host

    def remote(self, shard: Shard | None = None) -> Reference:
        assert not self._host.dead
        return Reference(self._host, shard)


@dataclass(eq=False)
class Host:
    dead: bool = False
    sees_nothing_at: str = ""

    @property
    def run_shard(self) -> Call:
        return Call(self)

    progress = pid = stop = blind = run_shard


@dataclass
class FakeRay:
    """One shard at a time is finished, of a host at random; hosts on lost nodes neither answer nor work."""

    cpus: list[float]
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    lost: set[int] = field(default_factory=set)
    finished: list[int] = field(default_factory=list)
    alive_shards: int = 0
    at: dict[int, Any] = field(default_factory=dict)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": cpus}} for cpus in self.cpus]

    def wait(self, references: list[Reference], num_returns: int = 1, timeout: float = 0) -> tuple[list, list]:
        able = [one for one in references if id(one.host) not in self.lost]
        if references and references[0].shard is not None:
            if len(self.finished) % 200 == 100:  # looking at all objects takes a while
                self.alive_shards = max(self.alive_shards, sum(type(one) is Shard for one in gc.get_objects()))
            able = [self.rng.choice(able)] if able else []
            self.finished += [one.shard.number for one in able]
            if event := self.at.pop(len(self.finished), None):
                event()
        return able, [one for one in references if one not in able]

    def get(self, references: Any, timeout: float = 0) -> Any:
        if not isinstance(references, list):
            return references.host.sees_nothing_at
        return [Counters(queries=len(self.finished)) for _ in references]

    def kill(self, host: Host) -> None:
        host.dead = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay([4.0])
    monkeypatch.setattr(handing, "ray", ray)
    monkeypatch.setattr(ray_cluster, "ray", ray)
    monkeypatch.setattr(handing, "LOOK_SECONDS", 0.0)
    return ray


def some_shards(count: int) -> Iterator[Shard]:
    users = [{"user": "independent", "sessions": count * 2, "length": 3}]
    study = small_study(attacks=[], users=users, filters=[{"none": True}], server={"sessions_per_host": 6})
    return shards(study, 10)


def test_no_more_shards_are_alive_than_are_under_way(fake: FakeRay) -> None:
    hosts = [Host(), Host(), Host()]
    handing.dispatch(hosts, some_shards(1500), lambda done: None, 2, Placement(3, 1, 1.0, 0))
    assert sorted(fake.finished) == list(range(1500))
    assert 3 * 2 <= fake.alive_shards <= 3 * 2 + 2  # and the one that was just made or finished


def test_shards_of_a_lost_node_are_run_by_the_hosts_that_are_left(
    fake: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = [Host(), Host(), Host()]

    def lose() -> None:
        fake.cpus[:] = [2.0]
        fake.lost.update({id(hosts[0]), id(hosts[2])})

    fake.at[5] = lose
    handing.dispatch(hosts, some_shards(40), lambda done: None, 2, Placement(3, 1, 1.0, 0))
    assert sorted(fake.finished) == list(range(40))
    assert [host.dead for host in hosts] == [True, False, True]
    assert "lost nodes, 2 CPUs on 1 node are left: going on with 1 of 3 session hosts" in capsys.readouterr().err


def test_a_host_that_answers_makes_room_for_a_model_that_lost_its_place(fake: FakeRay) -> None:
    hosts = [Host(), Host(), Host()]
    fake.at[5] = lambda: fake.cpus.__setitem__(slice(None), [3.0])
    handing.dispatch(hosts, some_shards(40), lambda done: None, 2, Placement(3, 1, 1.0, 0))
    assert sorted(set(fake.finished)) == list(range(40))
    assert sum(host.dead for host in hosts) == 1


def test_hosts_that_were_given_up_are_made_good_when_a_node_joins(
    fake: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = [Host(), Host(), Host()]
    started: list[Host] = []

    def another() -> tuple[Host, Reference]:
        started.append(Host())
        return started[-1], started[-1].blind.remote()

    def lose() -> None:
        fake.cpus[:] = [2.0]
        fake.lost.update({id(hosts[0]), id(hosts[2])})

    fake.at[5] = lose
    fake.at[12] = lambda: fake.cpus.append(1.0)
    fake.at[20] = lambda: fake.cpus.append(16.0)
    handing.dispatch(hosts, some_shards(60), lambda done: None, 2, Placement(3, 1, 1.0, 0), another)
    assert sorted(fake.finished) == list(range(60))
    assert len(started) == 2  # as many as were planned, whatever there is
    assert [host.dead for host in (*hosts, *started)] == [True, False, True, False, False]
    said = " ".join(capsys.readouterr().err.split())
    assert "has 3 CPUs on 2 nodes again: going on with 2 session hosts" in said
    assert "has 19 CPUs on 3 nodes again: going on with 3 session hosts" in said


def one_joins(fake: FakeRay, host: Host) -> None:
    """Lose the node of one host of two; another joins, and `host` is started on it. All shards are run, and once."""
    hosts = [Host(), Host()]

    def lose() -> None:
        fake.cpus[:] = [2.0]
        fake.lost.add(id(hosts[0]))

    fake.at[5] = lose
    fake.at[12] = lambda: fake.cpus.append(1.0)
    handing.dispatch(
        hosts, some_shards(40), lambda done: None, 2, Placement(2, 1, 1.0, 0), lambda: (host, host.blind.remote())
    )
    assert sorted(fake.finished) == list(range(40))


def test_a_host_that_finds_no_place_gets_no_shard_and_holds_nobody_up(fake: FakeRay) -> None:
    host = Host()
    fake.lost.add(id(host))  # others hold the node that joined
    one_joins(fake, host)
    assert host.dead


def test_a_node_that_does_not_see_the_run_is_told_and_left_alone(
    fake: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    host = Host(sees_nothing_at="10.0.0.9")
    one_joins(fake, host)  # which fails where it is started once more: it is dead
    assert host.dead
    assert "node 10.0.0.9, which joined, does not see the run's folder" in capsys.readouterr().err


def test_where_nothing_is_left_to_run_on_it_is_said(fake: FakeRay) -> None:
    hosts = [Host(), Host(), Host()]
    fake.at[5] = lambda: fake.cpus.__setitem__(slice(None), [1.0])
    with pytest.raises(ClusterError, match="has lost nodes: no room is left for a session host: 1 CPU on 1 node"):
        handing.dispatch(hosts, some_shards(40), lambda done: None, 2, Placement(3, 1, 1.0, 0))


def test_a_run_that_stands_still_says_so(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(handing, "STILL_SECONDS", -1.0)
    fake.available_resources = lambda: {"CPU": 0.5}  # type: ignore[attr-defined]
    handing.dispatch([Host()], some_shards(3), lambda done: None, 1, Placement(1, 1, 1.0, 0))
    said = capsys.readouterr().err
    assert "no query was answered for -1 s; the cluster has 4 CPUs on 1 node, 0.5 CPUs of it free" in said
