"""Sessions on Ray: the model's actors, several session hosts, shards handed out as hosts become free."""

from __future__ import annotations

import gc
import os
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray

from mifsim.data import load_data
from mifsim.errors import RunError
from mifsim.server.backend import Job, ModelFile, Watch
from mifsim.server.hand_out import hand_out
from mifsim.server.model_server import ModelServer
from mifsim.server.placement import Plan, plan
from mifsim.server.ray_cluster import clearly, connect, nodes, wait_for_place
from mifsim.server.scene import Counters, Scene
from mifsim.server.shard_run import Reply, run_shard
from mifsim.server.tickets import SHARDS_AT_A_TIME, Shard
from mifsim.study import Server, Study

PIECE_BYTES = 64 * 2**10
"""Of the model in one argument: small ones travel inside the actor's description, and so survive its restart."""
GC_THRESHOLD = 50_000
"""Objects, more than were freed, that a host makes before its garbage collector runs."""


@ray.remote(max_restarts=-1, max_task_retries=-1)
class ModelActor(ModelServer):
    """The victim, asked by all hosts.

    It restarts by itself; a call that was lost is made again, which is harmless: it has no state, and the server
    side of a session counts a query before the model is asked.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, logits: bool, batch_size: int, *pieces: bytes) -> None:
        from mifsim.victims.engine import engine_from_bytes

        super().__init__(engine_from_bytes(b"".join(pieces), shape, classes, logits, batch_size))


@ray.remote(max_restarts=-1, max_task_retries=-1, concurrency_groups={"desk": 1})
class SessionHost:
    """Runs shards of sessions; while one waits for the model, another goes on.

    A host that dies is started again, and its shards run again from their seeds: they rewrite the same files. Questions
    from the driver are answered in a thread of their own (the group ``desk``), also while a client of this host trains
    a network for a minute.
    """

    def __init__(self, job: Job, model_name: str) -> None:
        # An actor without a GPU of its own sees all of them: hide them, an attacker may train a network here.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._scene = Scene.load(job.study, job.run, job.facts, job.watching)
        # What is there now stays. Queries and answers are tracked by the collector and freed by their counts, in no
        # cycle: with Python's threshold of 700 it spends a tenth of a host's time on looking for one.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        # By name: a handle among the arguments would lie in the object store, and be lost with its owner.
        self._model = ray.get_actor(model_name)

    async def run_shard(self, shard: Shard) -> int:
        """Run one shard; return its number when its files are whole."""
        steps = run_shard(shard, self._scene)
        try:
            batch = next(steps)
            while True:
                confidence, gradients = await self._model.predict.remote(batch.images, batch.gradient_of)
                batch = steps.send(Reply(confidence, gradients))
        except StopIteration:
            return shard.number
        finally:
            steps.close()

    @ray.method(concurrency_group="desk")  # type: ignore[untyped-decorator]
    async def progress(self) -> Counters:
        """Return what this host has done."""
        return self._scene.counters

    @ray.method(concurrency_group="desk")  # type: ignore[untyped-decorator]
    async def pid(self) -> int:
        """Return this host's process."""
        return os.getpid()

    @ray.method(concurrency_group="desk")  # type: ignore[untyped-decorator]
    async def loaded_modules(self) -> list[str]:
        """Return the top-level modules of this process: a host must have started without TensorFlow."""
        return sorted({name.partition(".")[0] for name in sys.modules})

    @ray.method(concurrency_group="desk")  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Make the running shards give up at their next round."""
        self._scene.stopping = True


class OnRay:
    """The Ray backend.

    Parameters
    ----------
    address : str or None
        Of a cluster; None starts a local one, with token authentication as Ray has it by default, listening on
        loopback only.
    server : Server or None
        What a study asks of a cluster that is there already, to be refused at once where it cannot be had.
    """

    def __init__(self, address: str | None = None, server: Server | None = None) -> None:
        self._address = address
        if address is not None:  # before anything is written: a wrong address must not leave half a run
            connect(address)
            if server is not None:
                plan(server, nodes())

    def run(self, job: Job, model: ModelFile, shards: Iterator[Shard], watch: Watch) -> None:
        """Run all shards; see `Backend.run`."""
        ours = connect(self._address)
        try:
            with clearly():
                self._run(job, model, shards, watch)
        finally:
            if ours:
                ray.shutdown()

    def _run(self, job: Job, model: ModelFile, shards: Iterator[Shard], watch: Watch) -> None:
        # The driver's handles keep the models alive: the hosts look them up by name, which does not count.
        _models, hosts, placed = start_actors(job, model)
        in_flight = min(SHARDS_AT_A_TIME, job.study.server.sessions_per_host)
        hand_out(hosts, shards, watch, in_flight, placed)


def start_models(study: Study, model: ModelFile, placed: Plan) -> tuple[list[Any], list[str]]:
    """Start the copies of the model, on nodes with a GPU where the cluster has them; they are not up yet.

    Parameters
    ----------
    study : Study
    model : ModelFile
    placed : Plan
        What they take up.

    Returns
    -------
    actors : list of handles
        They keep them alive: looking them up by name does not.
    names : list of str
        Under which other actors of the job find them.
    """
    data = load_data(study.data)
    pieces = [model.content[start : start + PIECE_BYTES] for start in range(0, len(model.content), PIECE_BYTES)]
    names = [f"model-{uuid.uuid4().hex}" for _ in range(placed.replicas)]
    actors = [
        ModelActor.options(  # type: ignore[attr-defined]
            name=name,
            num_cpus=placed.model_cpus,
            num_gpus=placed.gpus,
            max_concurrency=256,
            scheduling_strategy="SPREAD",
        ).remote(data.shape, len(data.class_names), model.logits, study.server.batch_size, *pieces)
        for name in names
    ]
    return actors, names


def refuse_unlike(actors: list[Any], shape: tuple[int, ...]) -> None:
    """Refuse copies of the model that do not agree to the last bit: rows would depend on which one a host asks.

    Raises
    ------
    RunError
    """
    images = np.random.default_rng(0).random((8, *shape), dtype=np.float32)
    wanted = np.arange(8, dtype=np.int32) % 2 - 1
    answers = ray.get([actor.predict.remote(images, wanted) for actor in actors]) if len(actors) > 1 else []
    for number, answer in enumerate(answers):
        if any(not np.array_equal(one, first) for one, first in zip(answer, answers[0], strict=True)):
            raise RunError(
                f"server.model_replicas = {len(actors)}: copies 0 and {number} of the model give different answers to "
                "the same images, as unlike processors do; accepted here: 1, or nodes that are alike"
            )


def start_actors(job: Job, model: ModelFile) -> tuple[list[Any], list[Any], Plan]:
    """Start the models and the hosts, which are dealt to them in turns; return all when they are up, and the plan."""
    placed = plan(job.study.server, nodes())
    models, names = start_models(job.study, model, placed)
    hosts = [
        SessionHost.options(  # type: ignore[attr-defined]
            num_cpus=placed.cpus, max_concurrency=16, scheduling_strategy="SPREAD"
        ).remote(job, names[number % len(names)])
        for number in range(placed.hosts)
    ]
    first = [*(actor.facts.remote() for actor in models), *(host.progress.remote() for host in hosts)]
    if not wait_for_place(first, placed.cpus, placed):
        for actor in (*models, *hosts):
            ray.kill(actor)
        return start_actors(job, model)  # on what is left
    refuse_unlike(models, load_data(job.study.data).shape)
    return models, hosts, placed
