"""Placement of a run's actors: how many the cluster can hold and how many CPUs each one gets, decided before any start.

Ray waits silently for actors that it cannot place. Placement therefore compares the demand with the resources of each
node first. An actor needs a single node: CPUs left over on two nodes cannot be combined.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mifsim.errors import RunError
from mifsim.study.sections import Server

CPU_UNITS = 10_000
"""Ray's resolution: units per CPU."""
MIN_CPUS = 0.01
"""Minimum share of a CPU for an actor; a demand for less is more likely a mistake."""
MODEL_NODE_CPUS = 4
"""Minimum CPUs of a node that gets its own replica of the model by default; the replica takes one of them."""


@dataclass(frozen=True, slots=True)
class Node:
    """The resources of one node of a cluster."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Placement:
    """The actors of a run and their resources.

    Attributes
    ----------
    hosts, replicas : int
        Numbers of session hosts and of replicas of the model.
    cpus : float
        CPUs of each host, and of each replica without a GPU.
    gpus : int
        GPUs of each replica: 1 or 0.
    """

    hosts: int
    replicas: int
    cpus: float
    gpus: int

    @property
    def model_cpus(self) -> float:
        """CPUs of each replica: 0 for a replica on a GPU, so that hosts cannot keep it from its node."""
        return 0.0 if self.gpus else self.cpus

    def excess(self, nodes: Sequence[Node]) -> int:
        """Return how many actors do not fit onto the remaining nodes of a cluster.

        Raises
        ------
        RunError
            If a replica of the model has lost its GPU, or no host would be left.
        """
        if self.gpus and gpus(nodes) < self.replicas:
            raise RunError(
                f"each replica of the model needs a GPU (model_replicas = {self.replicas}); GPUs left: {gpus(nodes)}"
            )
        excess = self._cpu_actors(self.hosts) - capacity(nodes, self.cpus)
        if excess >= self.hosts:
            raise RunError(f"no capacity is left for a session host: {describe(nodes)}")
        return max(0, excess)

    def free_slots(self, nodes: Sequence[Node], hosts: int) -> int:
        """Return how many hosts may start in addition to `hosts`, within the capacity and the planned number."""
        return max(0, min(self.hosts - hosts, capacity(nodes, self.cpus) - self._cpu_actors(hosts)))

    def _cpu_actors(self, hosts: int) -> int:
        return hosts + (0 if self.gpus else self.replicas)


def place_actors(server: Server, nodes: Sequence[Node]) -> Placement:
    """Return the placement for a study's ``[server]`` section on a cluster.

    Actors share CPUs if there are more actors than CPUs.

    Raises
    ------
    RunError
        If the cluster cannot hold the actors; the message names the accepted values.
    """
    replicas = replica_count(server, nodes)
    on_gpus = gpus(nodes) > 0
    if on_gpus and gpus(nodes) < replicas:
        raise RunError(
            f"server.model_replicas = {replicas}: the cluster has {gpus(nodes)} GPUs, and each replica of the model "
            f"needs one; accepted on this cluster: 1 to {gpus(nodes)}"
        )
    cpus = sum(node.cpus for node in nodes)
    hosts = _host_count(cpus, replicas) if server.hosts == "auto" else server.hosts
    replicas_on_cpus = 0 if on_gpus else replicas
    share = _largest_share(nodes, hosts + replicas_on_cpus)
    if share < MIN_CPUS:
        most = capacity(nodes, MIN_CPUS) - replicas_on_cpus
        keys = f"server.hosts = {hosts}" + (f" with server.model_replicas = {replicas}" if replicas > 1 else "")
        accepted = f"1 to {most}" if most >= 1 else "fewer model_replicas, or a cluster with more CPUs"
        raise RunError(f"{keys}: the cluster has {describe(nodes)}; accepted on this cluster: {accepted}")
    return Placement(hosts, replicas, share, 1 if on_gpus else 0)


def replica_count(server: Server, nodes: Sequence[Node]) -> int:
    """Return the number of replicas of the model: ``server.model_replicas``, or one per suitable node for ``"auto"``.

    Queries to a model on another node cross the network, with 3 KB per image of 28×28. Each node with a GPU therefore
    gets a replica, or else each node with `MODEL_NODE_CPUS`, up to the number of hosts.

    Examples
    --------
    >>> replica_count(Server(), [Node(2.0)]), replica_count(Server(), [Node(16.0), Node(16.0)])
    (1, 2)
    >>> replica_count(Server(), [Node(16.0), Node(16.0, 8.0)]), replica_count(Server(hosts=3), [Node(16.0)] * 9)
    (1, 3)
    """
    if server.model_replicas != "auto":
        return server.model_replicas
    with_gpu = sum(node.gpus >= 1 for node in nodes)
    suggested = with_gpu or sum(node.cpus >= MODEL_NODE_CPUS for node in nodes)
    return max(1, suggested if server.hosts == "auto" else min(suggested, server.hosts))


def _host_count(cpus: float, replicas: int) -> int:
    """Return the number of hosts for ``"auto"``: one for each CPU that the replicas of the model leave.

    On fewer than `MODEL_NODE_CPUS` CPUs, it is one for each CPU: a CPU kept for the model is then a large share, and it
    is idle while detectors take most of the time. On 2 CPUs, 2 hosts are faster than 1 even with a light filter (see
    ``cluster/README.md``), and far more so with the recorders of several detectors.
    """
    whole = math.floor(cpus)
    return max(1, whole - replicas if cpus >= MODEL_NODE_CPUS else whole)


def assign_replicas(hosts: Sequence[str], models: Sequence[str]) -> list[int]:
    """Assign a replica of the model to each host: one on its node if that keeps the load balanced.

    Parameters
    ----------
    hosts, models : sequence of str
        The node id of each host and of each replica.

    Returns
    -------
    list of int
        An index of `models` for each host. No replica has more than ``ceil(len(hosts) / len(models))`` hosts. Among all
        such assignments, none has fewer hosts that query a replica on another node.

    Examples
    --------
    >>> assign_replicas(["a", "a", "b", "b"], ["b", "a"])
    [1, 1, 0, 0]
    >>> assign_replicas(["a", "a", "a", "b"], ["a", "b"])  # the third host is assigned to b to balance the load
    [0, 0, 1, 1]
    """
    most = math.ceil(len(hosts) / len(models))
    load: Counter[int] = Counter()
    assigned: dict[int, int] = {}
    for any_node in (False, True):
        for number, host in enumerate(hosts):
            if number in assigned:
                continue
            candidates = [
                replica for replica, node in enumerate(models) if load[replica] < most and (any_node or node == host)
            ]
            if candidates:
                assigned[number] = min(candidates, key=load.__getitem__)
                load[assigned[number]] += 1
    return [assigned[number] for number in range(len(hosts))]


def model_beside_trials(server: Server, nodes: Sequence[Node]) -> Placement:
    """Return the placement of the model's replicas during a search, in which each trial takes one CPU.

    Raises
    ------
    RunError
        If no node has a whole CPU, or there are too few GPUs.
    """
    if capacity(nodes, 1.0) < 1:
        raise RunError(f"the search needs 1 CPU on one node of the Ray cluster, which has {describe(nodes)}")
    replicas = replica_count(server.model_copy(update={"hosts": "auto"}), nodes)
    if 0 < gpus(nodes) < replicas:
        place_actors(Server(hosts=1, model_replicas=replicas), nodes)  # raises the error
    # The replicas reserve no CPU: a restarted replica would wait for a CPU that trials waiting for it occupy.
    return Placement(0, replicas, 0.0, 1 if gpus(nodes) else 0)


def capacity(nodes: Iterable[Node], cpus: float) -> int:
    """Return how many actors of `cpus` CPUs each the nodes can hold.

    Examples
    --------
    >>> capacity([Node(1.5), Node(1.5)], 1.0)
    2
    >>> capacity([Node(2.0), Node(1.0)], 0.4)
    7
    """
    size = round(cpus * CPU_UNITS)
    return sum(round(node.cpus * CPU_UNITS) // size for node in nodes)


def gpus(nodes: Iterable[Node]) -> int:
    """Return the number of whole GPUs on the nodes."""
    return sum(math.floor(node.gpus) for node in nodes)


def describe(nodes: Sequence[Node]) -> str:
    """Return the nodes' resources as text.

    Examples
    --------
    >>> describe([Node(4.0), Node(2.0, 1.0)])
    '6 CPUs and 1 GPU on 2 nodes'
    """
    cpus, count = sum(node.cpus for node in nodes), gpus(nodes)
    gpu_text = f" and {count} GPU{'s' if count > 1 else ''}" if count else ""
    return f"{cpus:g} CPU{'' if cpus == 1 else 's'}{gpu_text} on {len(nodes)} node{'' if len(nodes) == 1 else 's'}"


def _largest_share(nodes: Sequence[Node], actors: int) -> float:
    """Return the largest share of a CPU, at most 1, that `actors` actors can each have; 0 if there is none."""
    low, high = 0, CPU_UNITS + 1
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if capacity(nodes, middle / CPU_UNITS) >= actors else (low, middle)
    return low / CPU_UNITS
