"""Sessions on Ray: the model's actors, several session hosts, shards handed out as hosts become free."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import socket
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from mifsim.data import load_data
from mifsim.errors import ClusterError, RunError
from mifsim.progress import remark
from mifsim.server.backend import Job, ModelFile, Watch
from mifsim.server.local_cluster import keep_token_private, on_loopback
from mifsim.server.model_server import ModelServer
from mifsim.server.placement import Node, Plan, describe, plan
from mifsim.server.scene import Counters, Scene
from mifsim.server.shard_run import Reply, run_shard
from mifsim.server.tickets import SHARDS_AT_A_TIME, Shard
from mifsim.study import Server, Study

POLL_SECONDS = 0.5
KNOCK_SECONDS = 5.0
TELL_SECONDS = 15.0
"""After which a run that waits for a place says what it waits for, and again each time."""
START_SECONDS = 300.0
"""After which it gives up: actors on nodes that are there start in far less."""
LOOK_SECONDS = 2.0
"""Between two looks at which nodes are left."""
STILL_SECONDS = 60.0
"""Without an answered query, after which a run says so."""
ANSWER_SECONDS = 10.0
"""Within which a host that lives answers."""
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
        _models, hosts, placed = _start_actors(job, model)
        in_flight = min(SHARDS_AT_A_TIME, job.study.server.sessions_per_host)
        _hand_out(hosts, shards, watch, in_flight, placed)


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
        raise ClusterError(f"the Ray cluster failed: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


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
            with on_loopback():
                ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        else:
            ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise RunError(f"--address {address}: no Ray cluster answers there: {error}") from None
    except Exception as error:  # on a machine that is overloaded or full, of no class of its own
        if address is not None:
            raise
        raise ClusterError(f"a local Ray did not start: {_first_line(error)}") from None
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


def nodes() -> list[Node]:
    """Return what the nodes offer that the cluster has now."""
    there = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return [Node(one.get("CPU", 0.0), one.get("GPU", 0.0)) for one in there]


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


def wait_for_place(started: list[Any], cpus: float, placed: Plan | None = None) -> bool:
    """Wait for actors to answer for the first time, and say so where it takes long.

    Parameters
    ----------
    started : list of references
        The first answer of each.
    cpus : float
        That each takes up.
    placed : Plan or None
        What must go on to fit; None: nobody looks.

    Returns
    -------
    bool
        Whether they are all up; else a node was lost meanwhile, and they never will be.

    Raises
    ------
    RunError
        After `START_SECONDS`: others hold what the cluster has.
    """
    began = told = time.monotonic()
    while True:
        ready, waiting = ray.wait(started, num_returns=len(started), timeout=min(LOOK_SECONDS, TELL_SECONDS))
        if not waiting:
            ray.get(ready)
            return True
        if placed is not None and placed.surplus(nodes()):
            return False
        if time.monotonic() - told < TELL_SECONDS:
            continue
        told = time.monotonic()
        free = ray.available_resources()
        state = (
            f"{len(waiting)} of {len(started)} actors have no place or are not up yet: each takes up {cpus:g} CPU; the "
            f"cluster has {describe(nodes())}, of which {free.get('CPU', 0.0):g} CPUs and {free.get('GPU', 0.0):g} "
            "GPUs are free"
        )
        if time.monotonic() - began >= START_SECONDS:
            raise RunError(
                f"{state}; given up after {START_SECONDS:.0f} s. End what else runs there, or ask for less: "
                "server.hosts, server.model_replicas"
            )
        remark(f"waiting: {state}")


def wait_for_cpu() -> None:
    """Wait until a CPU is free, as a trial of a search takes one up; see `wait_for_place`."""
    wait_for_place([_take_place.remote()], 1.0)


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]  # Ray is not typed
def _take_place() -> None:
    """Nothing: that it runs shows that there is room."""


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


def _start_actors(job: Job, model: ModelFile) -> tuple[list[Any], list[Any], Plan]:
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
        return _start_actors(job, model)  # on what is left
    refuse_unlike(models, load_data(job.study.data).shape)
    return models, hosts, placed


class _Lookout:
    """Notices what Ray would wait for without a word: a place for actors whose node is lost, a run that stands still.

    Ray starts the actors of a lost node again on those that are left, where they find room. Where they do not, some
    hosts are given up, and the others run their shards.
    """

    def __init__(self, placed: Plan) -> None:
        self._placed = placed
        self._queries = -1
        self._looked = self._moved = time.monotonic()

    def saw(self, done: Counters) -> None:
        """Take note of what was done so far."""
        if done.queries != self._queries:
            self._queries, self._moved = done.queries, time.monotonic()

    def given_up(self, hosts: list[Any]) -> list[Any]:
        """Return the hosts that have no place any more, ended: those that do not answer first.

        Raises
        ------
        ClusterError
            Where what is left of the cluster cannot go on with the run.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return []
        self._looked, there = now, nodes()
        if now - self._moved > STILL_SECONDS:
            self._moved = now
            free = ray.available_resources().get("CPU", 0.0)
            remark(
                f"no query was answered for {STILL_SECONDS:.0f} s; the cluster has {describe(there)}, "
                f"{free:g} CPUs of it free"
            )
        try:
            surplus = replace(self._placed, hosts=len(hosts)).surplus(there)
        except RunError as error:
            raise ClusterError(f"the Ray cluster has lost nodes: {error}") from None
        if not surplus:
            return []
        answers = {host.pid.remote(): host for host in hosts}
        ready, silent = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_SECONDS)
        ended = [answers[reference] for reference in (*silent, *ready)][:surplus]
        for host in ended:
            ray.kill(host)
        remark(
            f"the cluster has lost nodes, {describe(there)} are left: going on with {len(hosts) - surplus} of "
            f"{len(hosts)} session hosts"
        )
        return ended


def _hand_out(
    hosts: list[Any], shards: Iterator[Shard], watch: Watch, in_flight: int, placed: Plan | None = None
) -> None:
    """Keep every host busy with `in_flight` shards; the queue is the iterator, so nothing piles up.

    `placed` tells what the actors take up, so that a lost node is noticed; None: nobody looks.
    """
    hosts = list(hosts)
    free = deque(host for _ in range(in_flight) for host in hosts)
    running: dict[Any, tuple[Any, Shard]] = {}
    again: deque[Shard] = deque()  # shards of hosts that were given up
    lookout = None if placed is None else _Lookout(placed)
    asked = [host.progress.remote() for host in hosts]
    try:
        while True:
            while free and (shard := again.popleft() if again else next(shards, None)) is not None:
                host = free.popleft()
                running[host.run_shard.remote(shard)] = host, shard
            if not running:
                break
            done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for reference in done:
                free.append(running.pop(reference)[0])
                ray.get(reference)
            if lookout is not None and (gone := lookout.given_up(hosts)):
                hosts = [host for host in hosts if host not in gone]
                free = deque(host for host in free if host not in gone)
                again.extend(shard for host, shard in running.values() if host in gone)
                running = {key: value for key, value in running.items() if value[0] not in gone}
                asked = [host.progress.remote() for host in hosts]
            ready, _ = ray.wait(asked, num_returns=len(asked), timeout=0)
            if len(ready) == len(asked):
                total = _sum(asked)
                if lookout is not None:
                    lookout.saw(total)
                watch(total)
                asked = [host.progress.remote() for host in hosts]
        asked = [host.progress.remote() for host in hosts]
        watch(_sum(ray.wait(asked, num_returns=len(asked), timeout=ANSWER_SECONDS)[0]))
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
