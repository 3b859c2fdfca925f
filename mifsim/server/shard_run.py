"""A shard's sessions, run together round by round, with the model's part left to the caller.

`run_shard` is a generator that yields a batch of images and is sent the model's reply. It knows neither Ray nor
threads, so that a Ray host, a single process and a test drive the very same code.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mifsim.clients.protocol import Answer
from mifsim.defense import ModelAnswer
from mifsim.server.client_session import ClientSession, SessionRow
from mifsim.server.client_specs import ClientSpec, Shard
from mifsim.server.environment import Environment
from mifsim.server.shard_files import shard_files


@dataclass(frozen=True, slots=True)
class Batch:
    """What a shard asks of the model.

    Attributes
    ----------
    images : ndarray of float32, shape (n, H, W) or (n, H, W, 3)
    gradient_of : ndarray of int32, shape (n,)
        The class whose confidence's gradient is wanted; -1 for none.
    """

    images: npt.NDArray[np.float32]
    gradient_of: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answers.

    Attributes
    ----------
    confidence : ndarray of float32, shape (n, classes)
    gradients : ndarray of float32, shape (m, H, W) or (m, H, W, 3)
        For those that asked, in their order.
    """

    confidence: npt.NDArray[np.float32]
    gradients: npt.NDArray[np.float32]


class Stopped(Exception):
    """The run was interrupted; the shard's files are not written and it will be run again from its seeds."""


def run_shard(shard: Shard, environment: Environment) -> Generator[Batch, Reply, None]:
    """Run all sessions of a shard to their ends and write their rows.

    Parameters
    ----------
    shard : Shard
    scene : Environment

    Yields
    ------
    Batch
        One image of every session that waits for the model; to be sent a `Reply`.

    Raises
    ------
    Stopped
        After `scene.stopping` was set.
    """
    rows: list[SessionRow] = []
    with shard_files(environment, shard, rows) as files:
        yield from run_clients(shard.specs, environment, rows, files)


class Sink(Protocol):
    """Where the rows of queries go."""

    def answered(
        self, clients: Sequence[ClientSession], labels: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32]
    ) -> None:
        """Take in one answered query of each client."""

    def unanswered(self, number: int, verdict: str, query: int, count: float) -> None:
        """Take in a query that the model never saw."""


class Nowhere:
    """A sink for those who want the sessions alone."""

    def answered(
        self, clients: Sequence[ClientSession], labels: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32]
    ) -> None:
        """Drop them."""

    def unanswered(self, number: int, verdict: str, query: int, count: float) -> None:
        """Drop it."""


def run_clients(
    specs: Sequence[ClientSpec], environment: Environment, rows: list[SessionRow], sink: Sink
) -> Generator[Batch, Reply, None]:
    """Run the sessions of some clients to their ends; `rows` is filled with them. See `run_shard`."""
    counters = environment.counters

    def on_query(number: int, verdict: str, query: int, count: float) -> None:
        sink.unanswered(number, verdict, query, count)
        counters.queries += 1

    clients = [environment.start(spec, rows, on_query) for spec in specs]
    images = np.empty((len(clients), *environment.data.shape), dtype=np.float32)
    # `asking` holds the clients that wait for the model, in the order of their specs; row i of `images` is client i's.
    asking = _advance([(client, None) for client in clients], images, environment)
    policy = environment.study.policy
    while asking:
        if environment.stopping:
            raise Stopped
        wanted = np.array(
            [-1 if client.query.gradient_of is None else client.query.gradient_of for client in asking],
            dtype=np.int32,
        )
        reply = yield Batch(images[: len(asking)], wanted)
        labels = reply.confidence.argmax(axis=1)
        for client, label, shares in zip(asking, labels.tolist(), reply.confidence, strict=True):
            client.observe(ModelAnswer(label, shares))
        sink.answered(asking, labels, reply.confidence)
        counters.queries += len(asking)
        for client, shares in zip(asking, reply.confidence, strict=True):
            if client.spec.target is not None:
                client.row.target_confidence = float(shares[client.spec.target])
        shown = policy.shown(reply.confidence)
        gradients = iter(reply.gradients)
        answers: list[tuple[ClientSession, Answer | None]] = [
            (
                client,
                Answer(
                    int(labels[i]),
                    None if shown is None else shown[i],
                    next(gradients) if wanted[i] >= 0 else None,
                ),
            )
            for i, client in enumerate(asking)
        ]
        asking = _advance(answers, images, environment)


def _advance(
    answers: list[tuple[ClientSession, Answer | None]], images: npt.NDArray[np.float32], environment: Environment
) -> list[ClientSession]:
    """Give every client its answer; return those that have a next image, having put it into `images`."""
    asking: list[ClientSession] = []
    for client, answer in answers:
        counted = client.spent
        image = client.advance(answer)
        if image is not None:
            environment.counters.work += client.spent - counted
            images[len(asking)] = image
            asking.append(client)
            continue
        environment.counters.sessions += 1
        environment.counters.work += environment.weight(client.spec) - counted  # in all: what it was expected to need
        environment.counters.blocked += client.row.outcome == "blocked"
        environment.counters.failed += client.row.outcome == "failed"
    return asking
