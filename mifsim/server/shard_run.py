"""Runs the sessions of a shard together, round by round; the caller runs the model.

`run_shard` is a generator that yields a batch of images and is sent the model's reply. It depends on neither Ray nor
threads, so that a Ray host, a single process and a test run the same code.
"""

from __future__ import annotations

import math
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
    """A batch of queries for the model.

    Attributes
    ----------
    images : ndarray of float32, shape (n, H, W) or (n, H, W, 3)
    gradient_of : ndarray of int32, shape (n,)
        The class whose confidence is differentiated with respect to the image; -1 for no gradient.
    """

    images: npt.NDArray[np.float32]
    gradient_of: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Reply:
    """The model's reply to a `Batch`.

    Attributes
    ----------
    confidence : ndarray of float32, shape (n, classes)
        NaN where it is not known, because a guard withheld it.
    gradients : ndarray of float32, shape (m, H, W) or (m, H, W, 3)
        The gradients of the m rows whose `gradient_of` is not negative, in their order.
    labels : ndarray of int64, shape (n,), or None
        The labels; None: those of the highest confidences.
    """

    confidence: npt.NDArray[np.float32]
    gradients: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None = None


class Stopped(Exception):
    """The run was interrupted; the shard's files are discarded, and a resumed run repeats it from its seeds."""


def run_shard(shard: Shard, environment: Environment) -> Generator[Batch, Reply, None]:
    """Run all sessions of a shard to completion and write their rows.

    Parameters
    ----------
    shard : Shard
    environment : Environment

    Yields
    ------
    Batch
        One image of every session that waits for the model. The caller sends a `Reply`.

    Raises
    ------
    Stopped
        If `environment.stopping` is set.
    """
    rows: list[SessionRow] = []
    with shard_files(environment, shard, rows) as files:
        yield from run_clients(shard.specs, environment, rows, files)


class QuerySink(Protocol):
    """Receives the rows of queries."""

    def answered(
        self, clients: Sequence[ClientSession], labels: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32]
    ) -> None:
        """Add one answered query of each client; see `ShardFiles.answered`."""

    def unanswered(self, number: int, verdict: str, query: int, count: float) -> None:
        """Add a query that did not reach the model."""


class NullSink:
    """A sink that discards the rows of queries, for callers that need only the sessions."""

    def answered(
        self, clients: Sequence[ClientSession], labels: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32]
    ) -> None:
        """Discard the rows."""

    def unanswered(self, number: int, verdict: str, query: int, count: float) -> None:
        """Discard the row."""


def run_clients(
    specs: Sequence[ClientSpec], environment: Environment, rows: list[SessionRow], sink: QuerySink
) -> Generator[Batch, Reply, None]:
    """Run the sessions of `specs` to completion and append their rows to `rows`; see `run_shard`."""
    counters = environment.counters

    def on_query(number: int, verdict: str, query: int, count: float) -> None:
        sink.unanswered(number, verdict, query, count)
        counters.queries += 1

    clients = [environment.start(spec, rows, on_query) for spec in specs]
    images = np.empty((len(clients), *environment.data.shape), dtype=np.float32)
    # `waiting` lists the clients that wait for the model, in the order of their specs; images[i] belongs to waiting[i].
    waiting = _advance([(client, None) for client in clients], images, environment)
    policy = environment.study.policy
    while waiting:
        if environment.stopping:
            raise Stopped
        gradient_of = np.array(
            [-1 if client.query.gradient_of is None else client.query.gradient_of for client in waiting],
            dtype=np.int32,
        )
        reply = yield Batch(images[: len(waiting)], gradient_of)
        labels = reply.confidence.argmax(axis=1) if reply.labels is None else reply.labels
        for client, label, shares in zip(waiting, labels.tolist(), reply.confidence, strict=True):
            client.observe(ModelAnswer(label, shares))
        sink.answered(waiting, labels, reply.confidence)
        counters.queries += len(waiting)
        for client, shares in zip(waiting, reply.confidence, strict=True):
            if client.spec.target is not None:
                share = float(shares[client.spec.target])
                client.row.target_confidence = None if math.isnan(share) else share
        shown = policy.shown(reply.confidence)
        gradients = iter(reply.gradients)
        answers: list[tuple[ClientSession, Answer | None]] = [
            (
                client,
                Answer(
                    int(labels[i]),
                    None if shown is None else shown[i],
                    next(gradients) if gradient_of[i] >= 0 else None,
                ),
            )
            for i, client in enumerate(waiting)
        ]
        waiting = _advance(answers, images, environment)


def _advance(
    answers: list[tuple[ClientSession, Answer | None]], images: npt.NDArray[np.float32], environment: Environment
) -> list[ClientSession]:
    """Send every client its answer; return the clients with a next image, whose images are written to `images`."""
    waiting: list[ClientSession] = []
    for client, answer in answers:
        spent_before = client.spent
        image = client.advance(answer)
        if image is not None:
            environment.counters.work += client.spent - spent_before
            images[len(waiting)] = image
            waiting.append(client)
            continue
        environment.counters.sessions += 1
        environment.counters.work += environment.weight(client.spec) - spent_before  # total: its weight
        environment.counters.blocked += client.row.outcome == "blocked"
        environment.counters.failed += client.row.outcome == "failed"
    return waiting
