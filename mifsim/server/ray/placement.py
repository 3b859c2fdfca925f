"""How many actors a cluster holds, and how much of a node each takes up: decided before any of them starts.

Ray waits without a word for what it cannot place. So whatever is asked for is first compared with what there is, node
by node: an actor lives on one node, and what is left over on two nodes makes no place for a third.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mifsim.errors import RunError
from mifsim.study.sections import Server

STEPS = 10_000
"""Ray counts CPUs in so many parts."""
LEAST_CPUS = 0.01
"""An actor may take up; with less there are so many of them that a mistake is likelier."""
MODEL_NODE_CPUS = 4
"""A node has that is given a copy of the model of its own without being asked: a copy takes up one of them."""


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine of a cluster offers."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Which actors a run starts.

    Attributes
    ----------
    hosts, replicas : int
        Session hosts; copies of the model.
    cpus : float
        That each host takes up, and each copy of the model that has no GPU.
    gpus : int
        That each copy of the model takes up: 1 or none.
    """

    hosts: int
    replicas: int
    cpus: float
    gpus: int

    @property
    def model_cpus(self) -> float:
        """CPUs that a copy of the model takes up: beside a GPU none, so that hosts cannot bar its way to it."""
        return 0.0 if self.gpus else self.cpus

    def excess(self, nodes: Sequence[Node]) -> int:
        """Return how many actors do not fit onto what is left of a cluster.

        Raises
        ------
        RunError
            Where a copy of the model had a GPU that is gone, or no host would be left.
        """
        if self.gpus and gpus(nodes) < self.replicas:
            raise RunError(
                f"each copy of the model had a GPU (model_replicas = {self.replicas}), {gpus(nodes)} are left"
            )
        more = self._taken(self.hosts) - capacity(nodes, self.cpus)
        if more >= self.hosts:
            raise RunError(f"no room is left for a session host: {describe(nodes)}")
        return max(0, more)

    def free_slots(self, nodes: Sequence[Node], hosts: int) -> int:
        """Return how many hosts may start beside those that there are: as far as there is room, and were planned."""
        return max(0, min(self.hosts - hosts, capacity(nodes, self.cpus) - self._taken(hosts)))

    def _taken(self, hosts: int) -> int:
        return hosts + (0 if self.gpus else self.replicas)


def place_actors(server: Server, nodes: Sequence[Node]) -> Placement:
    """Return what to start on a cluster for a study's ``[server]`` section.

    With fewer CPUs than actors the actors share them.

    Raises
    ------
    RunError
        Where the cluster cannot hold what is asked for; it says what would be accepted.
    """
    replicas = copies(server, nodes)
    on_gpus = gpus(nodes) > 0
    if on_gpus and gpus(nodes) < replicas:
        raise RunError(
            f"server.model_replicas = {replicas}: the cluster has {gpus(nodes)} GPUs, and each copy of the model takes "
            f"up one; accepted here: 1 to {gpus(nodes)}"
        )
    cpus = sum(node.cpus for node in nodes)
    hosts = max(1, math.floor(cpus) - replicas) if server.hosts == "auto" else server.hosts
    beside = 0 if on_gpus else replicas
    size = _largest(nodes, hosts + beside)
    if size < LEAST_CPUS:
        most = capacity(nodes, LEAST_CPUS) - beside
        asked = f"server.hosts = {hosts}" + (f" with server.model_replicas = {replicas}" if replicas > 1 else "")
        accepted = f"1 to {most}" if most >= 1 else "fewer model_replicas, or a cluster with more CPUs"
        raise RunError(f"{asked}: the cluster has {describe(nodes)}; accepted here: {accepted}")
    return Placement(hosts, replicas, size, 1 if on_gpus else 0)


def copies(server: Server, nodes: Sequence[Node]) -> int:
    """Return how many copies of the model a study has on a cluster: what it says, or what the nodes suggest.

    A model on another node is asked through the network, at 3 KB an image of 28×28; so each node that can spare a GPU
    or a CPU for one has its own, as long as there are hosts to ask it.

    Examples
    --------
    >>> copies(Server(), [Node(2.0)]), copies(Server(), [Node(16.0), Node(16.0)])
    (1, 2)
    >>> copies(Server(), [Node(16.0), Node(16.0, 8.0)]), copies(Server(hosts=3), [Node(16.0)] * 9)
    (1, 3)
    """
    if server.model_replicas != "auto":
        return server.model_replicas
    with_gpu = sum(node.gpus >= 1 for node in nodes)
    suggested = with_gpu or sum(node.cpus >= MODEL_NODE_CPUS for node in nodes)
    return max(1, suggested if server.hosts == "auto" else min(suggested, server.hosts))


def assign_replicas(hosts: Sequence[str], models: Sequence[str]) -> list[int]:
    """Return which copy of the model each host asks: one on its own node where that keeps the shares even.

    Parameters
    ----------
    hosts, models : sequence of str
        The node that each is on.

    Returns
    -------
    list of int
        A place in `models` for each host. No copy has more than ``ceil(len(hosts) / len(models))`` hosts, and of all
        such ways none has fewer questions cross from node to node.

    Examples
    --------
    >>> assign_replicas(["a", "a", "b", "b"], ["b", "a"])
    [1, 1, 0, 0]
    >>> assign_replicas(["a", "a", "a", "b"], ["a", "b"])  # the third asks across, lest one copy had three hosts
    [0, 0, 1, 1]
    """
    most = math.ceil(len(hosts) / len(models))
    asked: Counter[int] = Counter()
    assigned: dict[int, int] = {}
    for anywhere in (False, True):
        for number, host in enumerate(hosts):
            if number in assigned:
                continue
            open_ = [copy for copy, node in enumerate(models) if asked[copy] < most and (anywhere or node == host)]
            if open_:
                assigned[number] = min(open_, key=asked.__getitem__)
                asked[assigned[number]] += 1
    return [assigned[number] for number in range(len(hosts))]


def model_beside_trials(server: Server, nodes: Sequence[Node]) -> Placement:
    """Return how copies of the model are placed where trials of a search, which take up a CPU each, ask them.

    Raises
    ------
    RunError
        Where no node has a whole CPU, or there are too few GPUs.
    """
    if capacity(nodes, 1.0) < 1:
        raise RunError(f"the search needs 1 CPU on one node of the Ray cluster, which has {describe(nodes)}")
    replicas = copies(server.model_copy(update={"hosts": "auto"}), nodes)
    if 0 < gpus(nodes) < replicas:
        place_actors(Server(hosts=1, model_replicas=replicas), nodes)  # says so
    # It claims no CPU: were it to die with its node, trials that wait for it would hold the one that it waits for.
    return Placement(0, replicas, 0.0, 1 if gpus(nodes) else 0)


def capacity(nodes: Iterable[Node], cpus: float) -> int:
    """Return how many actors that take up `cpus` each the nodes hold.

    Examples
    --------
    >>> capacity([Node(1.5), Node(1.5)], 1.0)
    2
    >>> capacity([Node(2.0), Node(1.0)], 0.4)
    7
    """
    size = round(cpus * STEPS)
    return sum(round(node.cpus * STEPS) // size for node in nodes)


def gpus(nodes: Iterable[Node]) -> int:
    """Return how many whole GPUs there are, each on one node."""
    return sum(math.floor(node.gpus) for node in nodes)


def describe(nodes: Sequence[Node]) -> str:
    """Return what there is, in words.

    Examples
    --------
    >>> describe([Node(4.0), Node(2.0, 1.0)])
    '6 CPUs and 1 GPU on 2 nodes'
    """
    cpus, count = sum(node.cpus for node in nodes), gpus(nodes)
    beside = f" and {count} GPU{'s' if count > 1 else ''}" if count else ""
    return f"{cpus:g} CPU{'' if cpus == 1 else 's'}{beside} on {len(nodes)} node{'' if len(nodes) == 1 else 's'}"


def _largest(nodes: Sequence[Node], actors: int) -> float:
    """Return the largest part of a CPU, 1 at most, that so many actors can each take up; 0 where there is none."""
    low, high = 0, STEPS + 1
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if capacity(nodes, middle / STEPS) >= actors else (low, middle)
    return low / STEPS
