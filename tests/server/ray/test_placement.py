"""Placement is decided before any actor starts: what fits onto a cluster, and what is refused."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mifsim.errors import RunError
from mifsim.server.ray.placement import (
    Node,
    Placement,
    assign_replicas,
    capacity,
    model_beside_trials,
    place_actors,
    replica_count,
)
from mifsim.study.sections import Server

LAPTOP = [Node(2.0)]


def test_a_laptop_runs_a_host_on_each_cpu_and_the_model_beside_them() -> None:
    assert place_actors(Server(), LAPTOP) == Placement(hosts=2, replicas=1, cpus=0.6666, gpus=0)
    assert place_actors(Server(), [Node(3.0)]).hosts == 3


def test_with_four_cpus_or_more_the_model_has_one_of_them() -> None:
    assert place_actors(Server(), [Node(4.0)]) == Placement(hosts=3, replicas=1, cpus=1.0, gpus=0)


def test_fewer_cpus_than_actors_are_shared() -> None:
    assert place_actors(Server(hosts=3), LAPTOP).cpus == 0.5
    assert place_actors(Server(), [Node(1.0)]) == Placement(hosts=1, replicas=1, cpus=0.5, gpus=0)


def test_cpus_left_over_on_two_nodes_are_not_combined() -> None:
    # 3 CPUs in total, but three actors of 1 CPU do not fit: one of them would wait forever.
    placement = place_actors(Server(hosts=2), [Node(1.5), Node(1.5)])
    assert placement.cpus == 0.75
    assert capacity([Node(1.5), Node(1.5)], placement.cpus) == 4


def test_replicas_of_the_model_reduce_the_cpus_for_hosts() -> None:
    assert place_actors(Server(model_replicas=2), [Node(4.0), Node(4.0)]) == Placement(
        hosts=6, replicas=2, cpus=1.0, gpus=0
    )


def test_a_model_on_a_gpu_takes_no_cpu_from_the_hosts() -> None:
    placement = place_actors(Server(), [Node(4.0), Node(4.0, 1.0)])
    assert (placement.gpus, placement.model_cpus, placement.hosts) == (1, 0.0, 7)


@pytest.mark.parametrize(
    ("server", "nodes", "message"),
    [
        (
            {"hosts": 1000},
            LAPTOP,
            r"hosts = 1000: the cluster has 2 CPUs on 1 node; accepted on this cluster: 1 to 199",
        ),
        (
            {},
            [Node(0.0)],
            r"hosts = 1: the cluster has 0 CPUs on 1 node; accepted on this cluster: .* a cluster with more CPUs",
        ),
        (
            {"model_replicas": 3},
            [Node(8.0, 2.0)],
            r"model_replicas = 3: the cluster has 2 GPUs.*accepted on this cluster: 1 to 2",
        ),
        ({"hosts": 2, "model_replicas": 250}, LAPTOP, r"hosts = 2 with server.model_replicas = 250: .*fewer model_rep"),
    ],
)
def test_too_many_actors_are_refused_with_the_accepted_numbers(
    server: dict[str, int], nodes: list[Node], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        place_actors(Server(**server), nodes)


clusters = st.lists(st.builds(Node, st.floats(0, 64).map(lambda cpus: round(cpus, 4))), min_size=1, max_size=8)


@given(clusters, st.integers(1, 40), st.integers(1, 4))
def test_a_placement_fits_and_larger_shares_would_not(nodes: list[Node], hosts: int, replicas: int) -> None:
    try:
        placement = place_actors(Server(hosts=hosts, model_replicas=replicas), nodes)
    except RunError:
        assert capacity(nodes, 0.01) < hosts + replicas
        return
    assert capacity(nodes, placement.cpus) >= hosts + replicas
    assert placement.cpus == 1.0 or capacity(nodes, placement.cpus + 1e-4) < hosts + replicas
    assert placement.excess(nodes) == 0


def test_excess_counts_the_hosts_that_do_not_fit_after_a_loss() -> None:
    placement = place_actors(Server(), [Node(2.0), Node(2.0)])
    assert placement.hosts == 3
    assert placement.excess([Node(2.0)]) == 2
    with pytest.raises(RunError, match="no capacity is left for a session host: 1 CPU on 1 node"):
        placement.excess([Node(1.0)])
    on_gpu = place_actors(Server(), [Node(2.0), Node(2.0, 1.0)])
    with pytest.raises(RunError, match=r"needs a GPU \(model_replicas = 1\); GPUs left: 0"):
        on_gpu.excess([Node(2.0)])


def test_free_slots_are_limited_by_the_capacity_and_the_planned_number() -> None:
    placement = place_actors(Server(), [Node(2.0), Node(2.0)])
    assert [placement.free_slots([Node(2.0), Node(cpus)], 1) for cpus in (0.0, 1.0, 2.0, 64.0)] == [0, 1, 2, 2]
    assert placement.free_slots([Node(64.0)], 3) == 0
    assert placement.free_slots([Node(1.0)], 3) == 0
    on_gpu = place_actors(Server(), [Node(2.0), Node(2.0, 1.0)])
    assert on_gpu.free_slots([Node(2.0, 1.0)], 1) == 1


def test_replicas_take_no_cpu_from_the_trials_of_a_search() -> None:
    assert model_beside_trials(Server(), LAPTOP) == Placement(hosts=0, replicas=1, cpus=0.0, gpus=0)
    assert model_beside_trials(Server(hosts=1), [Node(8.0), Node(8.0)]).replicas == 2
    assert model_beside_trials(Server(model_replicas=2), [Node(1.0), Node(4.0, 2.0)]).gpus == 1
    # Half a CPU on each of two nodes: Tune would wait forever for a whole CPU.
    with pytest.raises(RunError, match=r"the search needs 1 CPU on one node .* which has 1 CPU on 2 nodes"):
        model_beside_trials(Server(), [Node(0.5), Node(0.5)])
    with pytest.raises(RunError, match=r"model_replicas = 3: the cluster has 2 GPUs"):
        model_beside_trials(Server(model_replicas=3), [Node(8.0, 2.0)])


@pytest.mark.parametrize(
    ("server", "nodes", "number"),
    [
        ({}, LAPTOP, 1),
        ({}, [Node(0.0), Node(8.0), Node(8.0), Node(4.0), Node(3.9)], 3),
        ({}, [Node(8.0), Node(8.0, 1.0), Node(2.0, 4.0), Node(8.0, 0.5)], 2),
        ({"hosts": 2}, [Node(8.0)] * 5, 2),
        ({"model_replicas": 1}, [Node(8.0)] * 5, 1),
        ({"model_replicas": 7}, LAPTOP, 7),
    ],
)
def test_each_suitable_node_gets_a_replica_unless_the_study_sets_their_number(
    server: dict[str, int], nodes: list[Node], number: int
) -> None:
    assert replica_count(Server(**server), nodes) == number


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=6), st.lists(st.sampled_from("abcd"), min_size=1, max_size=3)
)
def test_hosts_are_assigned_evenly_with_a_minimum_of_queries_across_nodes(hosts: list[str], models: list[str]) -> None:
    most = math.ceil(len(hosts) / len(models))

    def across(assigned: tuple[int, ...]) -> int:
        return sum(models[number] != host for host, number in zip(hosts, assigned, strict=True))

    assigned = tuple(assign_replicas(hosts, models))
    even = [
        candidate
        for candidate in itertools.product(range(len(models)), repeat=len(hosts))
        if max(Counter(candidate).values()) <= most
    ]
    assert assigned in even
    assert across(assigned) == min(map(across, even))


def test_replicas_on_one_node_share_its_hosts() -> None:
    assert Counter(assign_replicas(["a"] * 6 + ["b"] * 6, ["a", "a", "b", "b"])) == {0: 3, 1: 3, 2: 3, 3: 3}
