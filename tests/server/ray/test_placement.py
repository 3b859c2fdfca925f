"""What fits onto a cluster is known before anything starts on it."""

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
    copies,
    model_beside_trials,
    place_actors,
)
from mifsim.study.sections import Server

LAPTOP = [Node(2.0)]


def test_a_laptop_runs_a_model_and_a_host() -> None:
    assert place_actors(Server(), LAPTOP) == Placement(hosts=1, replicas=1, cpus=1.0, gpus=0)


def test_fewer_cpus_than_actors_are_shared() -> None:
    assert place_actors(Server(hosts=3), LAPTOP).cpus == 0.5
    assert place_actors(Server(), [Node(1.0)]) == Placement(hosts=1, replicas=1, cpus=0.5, gpus=0)


def test_what_is_left_over_on_two_nodes_makes_no_place() -> None:
    """3 CPUs in all, but three actors of a whole CPU would not fit: one of them would wait for ever."""
    placed = place_actors(Server(hosts=2), [Node(1.5), Node(1.5)])
    assert placed.cpus == 0.75
    assert capacity([Node(1.5), Node(1.5)], placed.cpus) == 4


def test_copies_of_the_model_take_their_cpus_from_the_hosts() -> None:
    assert place_actors(Server(model_replicas=2), [Node(4.0), Node(4.0)]) == Placement(
        hosts=6, replicas=2, cpus=1.0, gpus=0
    )


def test_the_model_goes_where_a_gpu_is_and_takes_no_cpu_of_a_host() -> None:
    placed = place_actors(Server(), [Node(4.0), Node(4.0, 1.0)])
    assert (placed.gpus, placed.model_cpus, placed.hosts) == (1, 0.0, 7)


@pytest.mark.parametrize(
    ("server", "nodes", "message"),
    [
        ({"hosts": 1000}, LAPTOP, r"hosts = 1000: the cluster has 2 CPUs on 1 node; accepted here: 1 to 199"),
        ({}, [Node(0.0)], r"hosts = 1: the cluster has 0 CPUs on 1 node; accepted here: .* a cluster with more CPUs"),
        ({"model_replicas": 3}, [Node(8.0, 2.0)], r"model_replicas = 3: the cluster has 2 GPUs.*accepted here: 1 to 2"),
        ({"hosts": 2, "model_replicas": 250}, LAPTOP, r"hosts = 2 with server.model_replicas = 250: .*fewer model_rep"),
    ],
)
def test_what_a_cluster_cannot_hold_is_refused_with_what_it_can(
    server: dict[str, int], nodes: list[Node], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        place_actors(Server(**server), nodes)


clusters = st.lists(st.builds(Node, st.floats(0, 64).map(lambda cpus: round(cpus, 4))), min_size=1, max_size=8)


@given(clusters, st.integers(1, 40), st.integers(1, 4))
def test_whatever_is_planned_fits_and_nothing_larger_does(nodes: list[Node], hosts: int, replicas: int) -> None:
    try:
        placed = place_actors(Server(hosts=hosts, model_replicas=replicas), nodes)
    except RunError:
        assert capacity(nodes, 0.01) < hosts + replicas
        return
    assert capacity(nodes, placed.cpus) >= hosts + replicas
    assert placed.cpus == 1.0 or capacity(nodes, placed.cpus + 1e-4) < hosts + replicas
    assert placed.excess(nodes) == 0


def test_after_a_loss_it_is_known_how_many_hosts_are_too_many() -> None:
    placed = place_actors(Server(), [Node(2.0), Node(2.0)])
    assert placed.hosts == 3
    assert placed.excess([Node(2.0)]) == 2
    with pytest.raises(RunError, match="no room is left for a session host: 1 CPU on 1 node"):
        placed.excess([Node(1.0)])
    on_gpu = place_actors(Server(), [Node(2.0), Node(2.0, 1.0)])
    with pytest.raises(RunError, match=r"had a GPU \(model_replicas = 1\), 0 are left"):
        on_gpu.excess([Node(2.0)])


def test_hosts_may_join_as_far_as_there_is_room_and_they_were_planned() -> None:
    placed = place_actors(Server(), [Node(2.0), Node(2.0)])
    assert [placed.free_slots([Node(2.0), Node(cpus)], 1) for cpus in (0.0, 1.0, 2.0, 64.0)] == [0, 1, 2, 2]
    assert placed.free_slots([Node(64.0)], 3) == 0
    assert placed.free_slots([Node(1.0)], 3) == 0
    on_gpu = place_actors(Server(), [Node(2.0), Node(2.0, 1.0)])
    assert on_gpu.free_slots([Node(2.0, 1.0)], 1) == 1


def test_a_search_keeps_a_cpu_for_its_trials() -> None:
    assert model_beside_trials(Server(), LAPTOP) == Placement(hosts=0, replicas=1, cpus=0.0, gpus=0)
    assert model_beside_trials(Server(hosts=1), [Node(8.0), Node(8.0)]).replicas == 2
    assert model_beside_trials(Server(model_replicas=2), [Node(1.0), Node(4.0, 2.0)]).gpus == 1
    # Two halves of a CPU on two nodes: Tune would wait for ever for a trial's whole one.
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
def test_nodes_that_can_spare_one_have_a_copy_of_the_model_unless_the_study_says_how_many(
    server: dict[str, int], nodes: list[Node], number: int
) -> None:
    assert copies(Server(**server), nodes) == number


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=6), st.lists(st.sampled_from("abcd"), min_size=1, max_size=3)
)
def test_hosts_are_dealt_evenly_and_as_few_as_can_be_ask_across_nodes(hosts: list[str], models: list[str]) -> None:
    most = math.ceil(len(hosts) / len(models))

    def across(assigned: tuple[int, ...]) -> int:
        return sum(models[number] != host for host, number in zip(hosts, assigned, strict=True))

    assigned = tuple(assign_replicas(hosts, models))
    even = [
        ways for ways in itertools.product(range(len(models)), repeat=len(hosts)) if max(Counter(ways).values()) <= most
    ]
    assert assigned in even
    assert across(assigned) == min(map(across, even))


def test_the_copies_of_a_node_share_its_hosts() -> None:
    assert Counter(assign_replicas(["a"] * 6 + ["b"] * 6, ["a", "a", "b", "b"])) == {0: 3, 1: 3, 2: 3, 3: 3}
