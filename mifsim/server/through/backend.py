"""The backend whose sessions query a guard over HTTP."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from mifsim.clients.protocol import Image
from mifsim.data import load_data
from mifsim.defense import Detector
from mifsim.errors import RemoteGuardError
from mifsim.server.backend import Job, OnProgress
from mifsim.server.client_specs import ClientSpec, Shard
from mifsim.server.environment import Counters, Environment
from mifsim.server.session import Session
from mifsim.server.shard_run import Batch, Reply, run_shard
from mifsim.server.through.answers import GuardAnswer
from mifsim.server.through.client import GuardedClient, Link, RunEnded, Turn
from mifsim.server.through.connection import GuardConnection
from mifsim.server.through.description import GuardDescription, describe
from mifsim.server.through.formats import QueryFormat
from mifsim.study.wire import Transport
from mifsim.victims import ModelSource
from mifsim.victims.engines.base import Engine

SHARDS_AT_A_TIME = 16
"""Number of shards that run concurrently, each of which has one request open at a time."""
_PROGRESS_SECONDS = 0.5


@dataclass
class _GuardedEnvironment(Environment):
    """An environment whose clients query a guard; `answers` are those of the round, in the order of their sessions."""

    link: Link = field(kw_only=True)
    answers: deque[GuardAnswer] = field(default_factory=deque, kw_only=True)

    def detector(self, spec: ClientSpec, before: Detector | None = None) -> Detector:
        """Return a new identity at the guard."""
        return GuardedClient(self.link, self.answers)

    def session(self, detector: Detector) -> Session:
        """Return a new session without a transport, which the guard applies."""
        return Session(detector, Transport("float32"), self.data.shape)


class _LocalModel:
    """The attackers' copy of the model, for gradients; it is loaded when the first one is requested."""

    def __init__(self, job: Job, source: ModelSource, shape: tuple[int, ...], classes: int) -> None:
        self._job, self._source, self._shape, self._classes = job, source, shape, classes
        self._engine: Engine | None = None

    def gradients(self, batch: Batch) -> list[Image]:
        """Return the gradients that a batch requests; white-box attackers take them at the images that arrive."""
        asking = np.flatnonzero(batch.gradient_of >= 0)
        if not len(asking):
            return []
        if self._engine is None:
            self._engine = self._source.engine(self._shape, self._classes, self._job.study.server.batch_size)
        arrived = np.stack([self._job.study.transport.arrive(batch.images[place]) for place in asking])
        return list(self._engine.predict(arrived, batch.gradient_of[asking])[1])

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


class ThroughGuard:
    """A backend that runs shards in threads of this process, and sends every query to a guard.

    The model's answers come from the guard. Only gradients are computed here: a white-box attacker has the model's
    weights.

    Parameters
    ----------
    connection : GuardConnection
    description : GuardDescription or None
        What the guard states about itself.
    form : QueryFormat
        The format of queries.
    """

    def __init__(self, connection: GuardConnection, description: GuardDescription | None, form: QueryFormat) -> None:
        self._connection, self._description, self._form = connection, description, form

    def run(self, job: Job, model: ModelSource, shards: Iterator[Shard], on_progress: OnProgress) -> None:
        """Run all shards; see `Backend.run`.

        Raises
        ------
        RemoteGuardError
            If the guard cannot be reached, fails, or used another configuration at the end.
        """
        data, study, turn = load_data(job.study.data), job.study, Turn()
        link = Link(self._connection, self._form, study.policy, len(data.class_names), turn)
        copy = _LocalModel(job, model, data.shape, len(data.class_names))
        done, running = Counters(), list[Environment]()

        def run_one(shard: Shard) -> Environment:
            with turn:
                environment = _GuardedEnvironment(study, job.run, job.facts, data, link=link)
                running.append(environment)
                steps = run_shard(shard, environment)
                try:
                    batch = next(steps)
                    while True:
                        batch = steps.send(_reply(batch, environment.answers, copy, len(data.class_names)))
                except StopIteration:
                    return environment
                finally:
                    steps.close()

        def progress() -> None:
            total = Counters()
            for counters in [done, *(environment.counters for environment in running)]:
                total.add(counters)
            on_progress(total)

        try:
            with ThreadPoolExecutor(SHARDS_AT_A_TIME, thread_name_prefix="shard") as threads:
                waiting: set[Future[Environment]] = set()
                try:
                    while True:
                        waiting |= {threads.submit(run_one, s) for s in islice(shards, SHARDS_AT_A_TIME - len(waiting))}
                        if not waiting:
                            break
                        ended, waiting = wait(waiting, _PROGRESS_SECONDS, FIRST_COMPLETED)
                        for future in ended:
                            environment = future.result()
                            running.remove(environment)
                            done.add(environment.counters)
                        progress()
                except BaseException as error:
                    self._connection.stop()
                    for environment in list(running):
                        environment.stopping = True
                    for future in waiting:
                        future.cancel()
                    if isinstance(error, RunEnded) and isinstance(error.__cause__, RemoteGuardError):
                        raise error.__cause__ from None
                    raise
        finally:
            copy.close()
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        """Raise a `RemoteGuardError` if the guard has another configuration than at the start of the run."""
        if self._description is None:
            return
        found = describe(self._connection)
        if found is not None and found.digest != self._description.digest:
            raise RemoteGuardError(
                f"{self._connection.address}: the guard runs configuration {found.digest} now, and ran "
                f"{self._description.digest} when the run started: the rows cannot be compared with a simulation"
            )


def _reply(batch: Batch, answers: deque[GuardAnswer], model: _LocalModel, classes: int) -> Reply:
    """Return the guard's answers to a batch; its rows are in the order in which the guard was asked."""
    if len(answers) != len(batch.images):
        raise RuntimeError(f"{len(answers)} answers for {len(batch.images)} queries")
    found = [answers.popleft() for _ in range(len(answers))]
    hidden = np.full(classes, np.nan, np.float32)
    confidence = np.stack([hidden if answer.confidence is None else answer.confidence for answer in found])
    gradients = model.gradients(batch)
    return Reply(
        confidence,
        np.stack(gradients) if gradients else np.empty((0, *batch.images.shape[1:]), np.float32),
        np.array([answer.label for answer in found], np.int64),
    )
