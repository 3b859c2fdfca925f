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
from mifsim.server.client_specs import ClientSpec, Shard
from mifsim.server.environment import Environment
from mifsim.server.rounds import AnsweredQueries, Round, RunningClients
from mifsim.server.session_rows import SessionRow
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
        self, queries: AnsweredQueries, labels: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32]
    ) -> None:
        """Add the answered queries of one round.

        Parameters
        ----------
        queries : AnsweredQueries
            The n queries.
        labels : ndarray of int64, shape (n,)
            The model's labels.
        confidence : ndarray of float32, shape (n, classes)
            The model's confidence vectors.
        """

    def unanswered(self, number: int, verdict: str, query: int, count: float) -> None:
        """Add a query that did not reach the model."""


class NullSink:
    """A sink that discards the rows of queries, for callers that need only the sessions."""

    def answered(
        self, queries: AnsweredQueries, labels: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32]
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

    running = RunningClients([environment.start(spec, rows, on_query) for spec in specs], environment)
    waiting = running.advance(None)
    while len(waiting.images):
        if environment.stopping:
            raise Stopped
        reply = yield Batch(waiting.images, waiting.gradient_of)
        labels = reply.confidence.argmax(axis=1) if reply.labels is None else reply.labels
        answers = _answers(waiting, reply, labels, environment) if waiting.single else []
        sink.answered(waiting.answered(), labels, reply.confidence)
        counters.queries += len(waiting.images)
        waiting = running.advance(answers)


def _answers(waiting: Round, reply: Reply, labels: npt.NDArray[np.int64], environment: Environment) -> list[Answer]:
    """Pass the reply to the detectors of the clients that are advanced one by one; return their answers."""
    places = waiting.places
    confidence, own_labels, asking = reply.confidence[places], labels[places].tolist(), waiting.gradient_of[places] >= 0
    shown = environment.study.policy.shown(confidence)
    gradients = iter(reply.gradients)
    answers: list[Answer] = []
    for k, (client, label, shares) in enumerate(zip(waiting.single, own_labels, confidence, strict=True)):
        client.observe(ModelAnswer(label, shares))
        if client.spec.target is not None:
            share = float(shares[client.spec.target])
            client.row.target_confidence = None if math.isnan(share) else share
        gradient = next(gradients) if asking[k] else None
        answers.append(Answer(label, None if shown is None else shown[k], gradient))
    return answers
