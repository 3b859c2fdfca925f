"""Sessions on Ray: the model's actors, several session hosts, shards handed out as hosts become free."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray

from mifsim.errors import RunError
from mifsim.server.backend import Job, ModelFile, OnProgress
from mifsim.server.client_specs import SHARDS_AT_A_TIME, Shard
from mifsim.server.environment import Counters, Environment
from mifsim.server.ray.cluster import autoscaled, connect, nodes, translate_errors, wait_for_place
from mifsim.server.ray.dispatch import dispatch
from mifsim.server.ray.models import Models, drop_divergent_replicas, nearest_copy, node_id, start_models
from mifsim.server.ray.placement import Placement, assign_replicas, place_actors
from mifsim.server.shard_run import Reply, run_shard
from mifsim.server.shared_storage import sees_sentinel, sentinel_file
from mifsim.study import Server
from mifsim.tables.storage import Folder

GC_THRESHOLD = 50_000
"""Objects, more than were freed, that a host makes before its garbage collector runs."""


@ray.remote(max_restarts=-1, max_task_retries=-1, concurrency_groups={"desk": 1})
class SessionHost:
    """Runs shards of sessions; while one waits for the model, another goes on.

    A host that dies is started again, and its shards run again from their seeds: they rewrite the same files. Questions
    from the driver are answered in a thread of their own (the group ``desk``), also while a client of this host trains
    a network for a minute.
    """

    def __init__(self, job: Job, models: Sequence[str], node_ids: Sequence[str] = ()) -> None:
        # An actor without a GPU of its own sees all of them: hide them, an attacker may train a network here.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._environment = Environment.load(job.study, job.run, job.facts, job.recording)
        # What is there now stays. Queries and answers are tracked by the collector and freed by their counts, in no
        # cycle: with Python's threshold of 700 it spends a tenth of a host's time on looking for one.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        self._model = nearest_copy(models, node_ids)  # until it is dealt one; again after a restart

    async def ask(self, name: str) -> None:
        """Ask this copy of the model from now on."""
        self._model = ray.get_actor(name)

    async def run_shard(self, shard: Shard) -> int:
        """Run one shard; return its number when its files are whole."""
        steps = run_shard(shard, self._environment)
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
        return self._environment.counters

    @ray.method(concurrency_group="desk")  # type: ignore[untyped-decorator]
    async def node(self) -> str:
        """Return the node it is on."""
        return node_id()

    @ray.method(concurrency_group="desk")  # type: ignore[untyped-decorator]
    async def missing_sentinel(self, sentinel: str) -> str:
        """Return the address of its node where that does not see the folder with this mark; else nothing."""
        return "" if sees_sentinel(sentinel) else str(ray.util.get_node_ip_address())

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
        self._environment.stopping = True


class OnRay:
    """The Ray backend.

    Parameters
    ----------
    address : str or None
        Of a cluster; None starts a local one, with token authentication as Ray has it by default, listening on
        loopback only.
    server : Server or None
        What a study asks of a cluster that is there already, to be refused at once where it cannot be had; where
        the cluster is to grow, it is seen to when the run starts.
    """

    def __init__(self, address: str | None = None, server: Server | None = None) -> None:
        self._address = address
        if address is not None:  # before anything is written: a wrong address must not leave half a run
            connect(address)
            if server is not None and not server.grow_seconds:
                place_actors(server, nodes())

    def run(self, job: Job, model: ModelFile, shards: Iterator[Shard], on_progress: OnProgress) -> None:
        """Run all shards; see `Backend.run`."""
        started_here = connect(self._address)
        try:
            with translate_errors():
                self._run(job, model, shards, on_progress)
        finally:
            if started_here:
                ray.shutdown()

    def _run(self, job: Job, model: ModelFile, shards: Iterator[Shard], on_progress: OnProgress) -> None:
        # The driver's handles keep the models alive: the hosts look them up by name, which does not count.
        with sentinel_file(job.run) as sentinel:
            models, hosts, placed = start_actors(job, model)
            require_shared_folder(hosts, job.run, sentinel)
            node_ids = models.node_ids()

            def another() -> tuple[Any, Any]:
                host = start_host(job, placed, models.names, node_ids)
                return host, host.missing_sentinel.remote(sentinel)

            in_flight = min(SHARDS_AT_A_TIME, job.study.server.sessions_per_host)
            dispatch(hosts, shards, on_progress, in_flight, placed, another)


def require_shared_folder(hosts: list[Any], run: Folder, sentinel: str) -> None:
    """Refuse a run folder that a host's node does not see: it would write its rows where nobody looks for them.

    Raises
    ------
    RunError
    """
    missing_sentinel = sorted(
        {address for address in ray.get([host.missing_sentinel.remote(sentinel) for host in hosts]) if address}
    )
    if missing_sentinel:
        raise RunError(
            f"{run}: node {', '.join(missing_sentinel)} does not see this folder; what a run writes, and the cache "
            "where a calibration keeps its recordings (MIFSIM_CACHE_DIR), must be under the same path on all nodes "
            "(a network file system); a run may also be a URL that all nodes have credentials for"
        )


def start_host(job: Job, placed: Placement, models: Sequence[str], node_ids: Sequence[str] = ()) -> Any:
    """Start a session host, which is not up yet."""
    options = {"num_cpus": placed.cpus, "max_concurrency": 16, "scheduling_strategy": "SPREAD"}
    return SessionHost.options(**options).remote(job, models, node_ids)  # type: ignore[attr-defined]


def start_actors(job: Job, model: ModelFile) -> tuple[Models, list[Any], Placement]:
    """Start the models and the hosts; return all when they are up and each host knows whom it asks, and the plan."""
    with autoscaled(job.study.server):
        placed = place_actors(job.study.server, nodes())
        models = start_models(job.study, model, placed)
        hosts = [start_host(job, placed, models.names) for _ in range(placed.hosts)]
        all_up = wait_for_place([*models.up(), *(host.node.remote() for host in hosts)], placed.cpus, placed)
    if not all_up:
        models.end()
        for host in hosts:
            ray.kill(host)
        return start_actors(job, model)  # on what is left
    models = drop_divergent_replicas(models, job.study)
    assigned = assign_replicas(ray.get([host.node.remote() for host in hosts]), models.node_ids())
    ray.get([host.ask.remote(models.names[number]) for host, number in zip(hosts, assigned, strict=True)])
    return models, hosts, replace(placed, replicas=len(models.names))
