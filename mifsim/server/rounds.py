"""One round of a shard: every running client sends its next query, and those that are safe wait for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from mifsim.clients.protocol import Answer, Image
from mifsim.server.client_session import ClientSession
from mifsim.server.environment import Environment
from mifsim.server.stream_batch import Ended, StreamBatch, StreamRound


@dataclass(frozen=True, slots=True)
class AnsweredQueries:
    """The n queries of a round that the model has answered, in the order of their clients' specs.

    Attributes
    ----------
    numbers, queries : ndarray of int64, shape (n,)
        The numbers of the sessions' rows, and of the queries in their sessions.
    counts : ndarray of float64, shape (n,)
        The counts of the detectors.
    targets : ndarray of int64, shape (n,)
        The classes under attack; -1 for users.
    clients : sequence of ClientSession
        The clients that are advanced one by one; all of them in a recording.
    """

    numbers: npt.NDArray[np.int64]
    queries: npt.NDArray[np.int64]
    counts: npt.NDArray[np.float64]
    targets: npt.NDArray[np.int64]
    clients: Sequence[ClientSession]


@dataclass(frozen=True, slots=True)
class Round:
    """The n clients that wait for the model, in the order of their specs.

    Attributes
    ----------
    images : ndarray of float32, shape (n, H, W) or (n, H, W, 3)
        Their images; valid until the next round.
    gradient_of : ndarray of int32, shape (n,)
        See `mifsim.server.shard_run.Batch`.
    single : list of ClientSession
        The clients that are advanced one by one.
    places : ndarray of int64
        The place of each of these among the n.
    streams : list of (ndarray of int64, StreamRound)
        The other clients, batch by batch, with their places among the n.
    """

    images: npt.NDArray[np.float32]
    gradient_of: npt.NDArray[np.int32]
    single: list[ClientSession]
    places: npt.NDArray[np.int64]
    streams: list[tuple[npt.NDArray[np.int64], StreamRound]]

    def answered(self) -> AnsweredQueries:
        """Return the queries, after the detectors have observed the answers."""
        if not self.single and len(self.streams) == 1:
            only = self.streams[0][1]
            return AnsweredQueries(only.numbers, only.queries, only.counts, np.full(len(self.images), -1), ())
        numbers, queries, targets = np.full((3, len(self.images)), -1)
        counts = np.empty(len(self.images))
        for places, stream in self.streams:
            numbers[places], queries[places], counts[places] = stream.numbers, stream.queries, stream.counts
        if self.single:
            sessions = [client.session for client in self.single]
            numbers[self.places] = [client.number for client in self.single]
            queries[self.places] = [session.queries for session in sessions]
            counts[self.places] = [session.count for session in sessions]
            targets[self.places] = [-1 if client.spec.target is None else client.spec.target for client in self.single]
        return AnsweredQueries(numbers, queries, counts, targets, self.single)


class RunningClients:
    """The clients of a shard, which `advance` takes to their next queries.

    Clients whose images do not depend on the answers are advanced together, if their detectors can be (see
    `StreamBatch`), and the others one by one.

    Parameters
    ----------
    clients : sequence of ClientSession
        New clients, in the order of their specs.
    environment : Environment
    """

    def __init__(self, clients: Sequence[ClientSession], environment: Environment) -> None:
        self._clients = clients
        self._environment = environment
        self._images = np.empty((len(clients), *environment.data.shape), dtype=np.float32)
        self._batches: list[StreamBatch] = []
        streams: dict[int, list[tuple[int, ClientSession]]] = {}
        for position, client in enumerate(clients):
            if client.open_stream is not None:
                streams.setdefault(client.spec.filter, []).append((position, client))
        batched: set[int] = set()
        shape, transport = environment.data.shape, environment.study.transport
        for filter_, members in streams.items():
            if (detectors := environment.detectors(filter_, len(members))) is not None:
                self._batches.append(StreamBatch(members, detectors, transport, shape))
                batched.update(position for position, _ in members)
        self._single = [position for position in range(len(clients)) if position not in batched]

    def advance(self, answers: Sequence[Answer] | None) -> Round:
        """Send every client its answer; return those with a next query.

        Parameters
        ----------
        answers : sequence of Answer or None
            The answers to the clients that are advanced one by one, in their order; None to start all clients.
        """
        each = [None] * len(self._single) if answers is None else answers
        steps: list[tuple[int, Answer | Ended | None]] = list(zip(self._single, each, strict=True))
        streams = [batch.advance() for batch in self._batches]
        if any(stream.ended for stream in streams):
            # One after the other in the order of the specs, as the rows of queries that do not reach the model.
            steps = sorted([*steps, *(item for stream in streams for item in stream.ended)], key=itemgetter(0))
        single: list[int] = []
        images: list[Image] = []
        for position, step in steps:
            if isinstance(step, Ended):
                step.conclude()
                self._count_end(step.client, step.answered)
            elif (image := self._advance_one(self._clients[position], step)) is not None:
                single.append(position)
                images.append(image)
        self._environment.counters.work += sum(len(stream.positions) for stream in streams)
        self._single = single
        return self._joined([stream for stream in streams if len(stream.positions)], images)

    def _advance_one(self, client: ClientSession, answer: Answer | None) -> Image | None:
        spent_before = client.spent
        image = client.advance(answer)
        if image is None:
            self._count_end(client, spent_before)
        else:
            self._environment.counters.work += client.spent - spent_before
        return image

    def _count_end(self, client: ClientSession, counted: int) -> None:
        """Count a client that has ended, of whose queries `counted` are already counted as work."""
        counters = self._environment.counters
        counters.sessions += 1
        counters.work += self._environment.weight(client.spec) - counted  # total: its weight
        counters.blocked += client.row.outcome == "blocked"
        counters.failed += client.row.outcome == "failed"

    def _joined(self, streams: list[StreamRound], images: list[Image]) -> Round:
        single = [self._clients[position] for position in self._single]
        if len(streams) == 1 and not single:
            only = streams[0]
            count = len(only.positions)
            return Round(
                only.images, np.full(count, -1, np.int32), [], np.empty(0, np.int64), [(np.arange(count), only)]
            )
        positions = np.concatenate([np.array(self._single, np.int64), *(stream.positions for stream in streams)])
        places = np.empty(len(positions), np.int64)
        places[np.argsort(positions)] = np.arange(len(positions))
        gradient_of = np.full(len(positions), -1, np.int32)
        for place, image, client in zip(places.tolist(), images, single, strict=False):
            self._images[place] = image
            if client.query.gradient_of is not None:
                gradient_of[place] = client.query.gradient_of
        first, parts = len(single), []
        for stream in streams:
            parts.append((places[first : first + len(stream.positions)], stream))
            self._images[parts[-1][0]] = stream.images
            first += len(stream.positions)
        return Round(self._images[: len(positions)], gradient_of, single, places[: len(single)], parts)
