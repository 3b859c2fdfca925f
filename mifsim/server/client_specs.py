"""The work of a run: a spec for each client under each filter, cut into shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mifsim.study import Attacks, Population, Study

SHARDS_AT_A_TIME = 3
"""That a host runs: one with the model, one on its way, one at work. With two, host and model wait for one another."""


@dataclass(frozen=True, slots=True)
class ClientSpec:
    """One client that asks behind one filter.

    Attributes
    ----------
    population, filter : int
        Positions in the study's populations (attacks, then users) and filters.
    target : int or None
        Class under attack.
    trial : int
        Number of the client within its population (and class).
    client_id : str
        The client's identity, which its seed comes from: under every filter it sends the same stream until it is
        blocked, so that filters are compared on the same sessions.
    """

    population: int
    filter: int
    target: int | None
    trial: int
    client_id: str


@dataclass(frozen=True, slots=True)
class Shard:
    """A few clients that one host runs at a time, and the part files that hold their rows."""

    number: int
    specs: tuple[ClientSpec, ...]

    @property
    def stem(self) -> str:
        """Name of the shard's part files."""
        return f"shard-{self.number:06d}"


def client_specs(study: Study, classes: int) -> Iterator[ClientSpec]:
    """Yield the specs of all clients of a study; the order depends on the study alone."""
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
                    yield ClientSpec(number, filter_, None, trial, f"{population.name}/{trial}")


def shards(study: Study, classes: int, wanted: Callable[[ClientSpec], bool] | None = None) -> Iterator[Shard]:
    """Cut a study's clients, or those that are wanted, into shards, lazily: their number need not fit into memory."""
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
    """Sessions in a shard: its part of what a host runs at a time, so that some ask while others are served."""
    return max(1, study.server.sessions_per_host // SHARDS_AT_A_TIME)


def expected_queries(population: Population) -> float:
    """Return how many queries one client of a population makes on the average, as far as is known beforehand."""
    expected = population.client.expected_queries
    return population.budget_queries if expected is None else min(expected, population.budget_queries)


def client_rng(seed: int, client_id: str) -> np.random.Generator:
    """Return the generator that everything random of one client comes from.

    The spawn key is a digest of the client's id: adding a population to a study, or a host to a cluster, changes
    nobody else's draws.
    """
    words = np.frombuffer(hashlib.sha256(client_id.encode()).digest()[:16], dtype=np.uint32)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(int(word) for word in words)))
