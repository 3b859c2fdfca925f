"""The work of a run: one `ClientSpec` for each client under each filter, grouped into shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mifsim.study import Attacks, Population, Study

SHARDS_AT_A_TIME = 3
"""Number of shards that a host runs concurrently: one is computed by the model while another is in transit and a third
is processed by the host. With two, host and model would wait for each other."""


@dataclass(frozen=True, slots=True)
class ClientSpec:
    """One client to run under one filter.

    Attributes
    ----------
    population, filter : int
        Positions in the study's populations (attacks, then users) and filters.
    target : int or None
        Class under attack; None for users.
    trial : int
        Number of the client within its population and target class, from 0.
    client_id : str
        The client's id, from which its seed is derived. Under every filter, the client sends the same queries until it
        is blocked, so that filters are compared on the same sessions.
    """

    population: int
    filter: int
    target: int | None
    trial: int
    client_id: str


@dataclass(frozen=True, slots=True)
class Shard:
    """A group of clients that one host runs together; their rows are written to one part file per table."""

    number: int
    specs: tuple[ClientSpec, ...]

    @property
    def stem(self) -> str:
        """File name of the shard's part files, without the suffix."""
        return f"shard-{self.number:06d}"


def client_specs(study: Study, classes: int) -> Iterator[ClientSpec]:
    """Yield the specs of all clients of a study, in an order that depends only on the study."""
    filters = range(len(study.filters))
    for number, population in enumerate(study.populations):
        if isinstance(population, Attacks):
            targets = range(classes) if population.labels == "all" else population.labels
            for target in targets:
                for trial in range(population.trials):
                    for filter_ in filters:
                        client = f"{population.name}/{target}/{trial}"
                        yield ClientSpec(number, filter_, target, trial, client)
        else:
            for trial in range(population.count):
                for filter_ in filters:
                    yield ClientSpec(number, filter_, None, trial, user_id(population.name, trial))


def user_id(population: str, trial: int) -> str:
    """Return the client id of a user."""
    return f"{population}/{trial}"


def shards(study: Study, classes: int, wanted: Callable[[ClientSpec], bool] | None = None) -> Iterator[Shard]:
    """Group the clients of a study into shards, lazily, so that the specs need not fit into memory.

    Parameters
    ----------
    study : Study
    classes : int
        Number of classes of the data set.
    wanted : callable or None
        Selects the specs; None: all.
    """
    size = shard_size(study)
    pending: list[ClientSpec] = []
    number = 0
    for spec in filter(wanted, client_specs(study, classes)):
        pending.append(spec)
        if len(pending) == size:
            yield Shard(number, tuple(pending))
            number, pending = number + 1, []
    if pending:
        yield Shard(number, tuple(pending))


def shard_size(study: Study) -> int:
    """Return the number of clients per shard: the sessions per host divided by the number of concurrent shards."""
    return max(1, study.server.sessions_per_host // SHARDS_AT_A_TIME)


def expected_queries(population: Population) -> float:
    """Return the expected number of queries of one client of a population; its budget if the number is not known.

    The evasions of attackers are counted: decoys multiply the queries of the attack, and an entry comes before them.

    Parameters
    ----------
    population : Attacks or Users
    """
    expected = population.client.expected_queries
    if expected is None:
        return population.budget_queries
    for evasion in population.evasions if isinstance(population, Attacks) else ():
        expected = expected * evasion.cost + evasion.entry
    return min(expected, population.budget_queries)


def client_rng(seed: int, client_id: str) -> np.random.Generator:
    """Return the random number generator of one client.

    The spawn key is a digest of the client's id. Adding a population to a study or a host to a cluster therefore does
    not change the random numbers of other clients.
    """
    words = np.frombuffer(hashlib.sha256(client_id.encode()).digest()[:16], dtype=np.uint32)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(int(word) for word in words)))
