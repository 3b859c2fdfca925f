"""Sessions on Ray: one model actor, several session hosts, shards handed out as hosts become free."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import re
import socket
import sys
import uuid
from collections import deque
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from mifsim.errors import ClusterError, RunError
from mifsim.server.backend import Job, ModelFile, Watch
from mifsim.server.model_server import ModelServer
from mifsim.server.scene import Counters, Scene
from mifsim.server.shard_run import Reply, run_shard
from mifsim.server.tickets import SHARDS_AT_A_TIME, Shard
from mifsim.server.token import keep_token_private
from mifsim.study import Study

POLL_SECONDS = 0.5
KNOCK_SECONDS = 5.0
PIECE_BYTES = 64 * 2**10
"""Of the model in one argument: small ones travel inside the actor's description, and so survive its restart."""
GC_THRESHOLD = 50_000
"""Objects, more than were freed, that a host makes before its garbage collector runs."""
OBJECT_STORE_BYTES = 512 * 2**20
"""For a local cluster: batches in flight are all that the store holds."""


@ray.remote(max_restarts=-1, max_task_retries=-1)
class ModelActor(ModelServer):
    """The victim, asked by all hosts.

    It restarts by itself; a call that was lost is made again, which is harmless: it has no state, and the server
    side of a session counts a query before the model is asked.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, logits: bool, batch_size: int, *pieces: bytes) -> None:
        from mifsim.victims.engine import engine_from_bytes

        super().__init__(engine_from_bytes(b"".join(pieces), shape, classes, logits, batch_size))


@ray.remote(max_restarts=-1, max_task_retries=-1)
class SessionHost:
    """Runs shards of sessions; while one waits for the model, another goes on.

    A host that dies is started again, and its shards run again from their seeds: they rewrite the same files.
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

    async def progress(self) -> Counters:
        """Return what this host has done."""
        return self._scene.counters

    async def pid(self) -> int:
        """Return this host's process."""
        return os.getpid()

    async def loaded_modules(self) -> list[str]:
        """Return the top-level modules of this process: a host must have started without TensorFlow."""
        return sorted({name.partition(".")[0] for name in sys.modules})

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
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        if address is not None:  # before anything is written: a wrong address must not leave half a run
            connect(address)

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
        # The driver's handle keeps the model alive: the hosts look it up by name, which does not count.
        _model, hosts = _start_actors(job, model)
        _hand_out(hosts, shards, watch, in_flight=min(SHARDS_AT_A_TIME, job.study.server.sessions_per_host))


@contextlib.contextmanager
def clearly() -> Iterator[None]:
    """Say in one line what became of a cluster that Ray could not mend by itself: a lost node, a dead controller.

    Raises
    ------
    ClusterError
    """
    try:
        yield
    except RayError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ClusterError(f"the Ray cluster failed: {reason}") from None


def connect(address: str | None) -> bool:
    """Connect to a cluster, or start a local one; return whether it was not there before."""
    if address is not None:
        _knock(address)
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    try:
        if address is None:
            keep_token_private()
            ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        else:
            ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise RunError(f"--address {address}: no Ray cluster answers there: {error}") from None
    return True


def _knock(address: str) -> None:
    """See whether anything listens at host:port: Ray itself would try for minutes before it says so."""
    match = re.fullmatch(r"(?:ray://)?(\[[^]]+\]|[^:/]+):(\d{1,5})", address)
    if match is None:
        if address != "auto":
            raise RunError(f"--address {address}: is none (accepted: auto, host:port or ray://host:port)")
        return
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"--address {address}: no Ray cluster answers there: {error}") from None


def start_model(study: Study, model: ModelFile, cpus: float) -> tuple[Any, str]:
    """Start the model's actor, on a GPU where the cluster has one.

    Parameters
    ----------
    study : Study
    model : ModelFile
    cpus : float
        That it takes up.

    Returns
    -------
    actor : handle
        Keeps it alive: looking it up by name does not.
    name : str
        Under which other actors of the job find it.
    """
    from mifsim.data import load_data

    data = load_data(study.data)
    pieces = [model.content[start : start + PIECE_BYTES] for start in range(0, len(model.content), PIECE_BYTES)]
    name = f"model-{uuid.uuid4().hex}"
    gpus = 1 if ray.cluster_resources().get("GPU", 0.0) >= 1 else 0
    actor = ModelActor.options(name=name, num_cpus=cpus, num_gpus=gpus, max_concurrency=256).remote(  # type: ignore[attr-defined]
        data.shape, len(data.class_names), model.logits, study.server.batch_size, *pieces
    )
    return actor, name


def _start_actors(job: Job, model: ModelFile) -> tuple[Any, list[Any]]:
    study = job.study
    cpus = ray.cluster_resources().get("CPU", 0.0)
    wanted = study.server.hosts
    hosts = max(1, math.floor(cpus) - 1) if wanted == "auto" else wanted
    # With fewer CPUs than actors the actors share them: Ray would otherwise wait for ever, without a word.
    share = min(1.0, math.floor(cpus / (hosts + 1) * 10_000) / 10_000)
    if share < 0.01:
        raise RunError(
            f"server.hosts = {hosts}: the cluster has {cpus:g} CPUs; accepted here: 1 to {max(1, int(cpus * 100) - 1)}"
        )
    actor, name = start_model(study, model, share)
    started = [
        SessionHost.options(num_cpus=share, max_concurrency=16).remote(job, name)  # type: ignore[attr-defined]
        for _ in range(hosts)
    ]
    ray.get([actor.facts.remote(), *(host.progress.remote() for host in started)])
    return actor, started


def _hand_out(hosts: list[Any], shards: Iterator[Shard], watch: Watch, in_flight: int) -> None:
    """Keep every host busy with `in_flight` shards; the queue is the iterator, so nothing piles up."""
    free = deque(host for _ in range(in_flight) for host in hosts)
    running: dict[Any, Any] = {}
    asked = [host.progress.remote() for host in hosts]
    try:
        while True:
            while free and (shard := next(shards, None)) is not None:
                host = free.popleft()
                running[host.run_shard.remote(shard)] = host
            if not running:
                break
            done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for reference in done:
                free.append(running.pop(reference))
                ray.get(reference)
            ready, _ = ray.wait(asked, num_returns=len(asked), timeout=0)
            if len(ready) == len(asked):
                watch(_sum(asked))
                asked = [host.progress.remote() for host in hosts]
        watch(_sum([host.progress.remote() for host in hosts]))
    except RayTaskError as error:
        raise error.cause from None
    finally:
        if running:  # interrupted, or a shard failed: the others give up without leaving part of a file
            _stop(hosts, list(running))


def _sum(references: list[Any]) -> Counters:
    total = Counters()
    for counters in ray.get(references):
        total.add(counters)
    return total


def _stop(hosts: list[Any], running: list[Any]) -> None:
    try:
        ray.get([host.stop.remote() for host in hosts], timeout=5)
        ray.wait(running, num_returns=len(running), timeout=5)
    except (GetTimeoutError, RayActorError):
        pass  # a host that does not answer is ended with the cluster; its part files are swept up by a resume
