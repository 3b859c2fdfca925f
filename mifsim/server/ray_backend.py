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
from mifsim.server.backend import Job, ModelFile, Watch
from mifsim.server.hand_out import hand_out
from mifsim.server.marks import marked, sees
from mifsim.server.placement import Plan, deal, plan
from mifsim.server.ray_cluster import clearly, connect, grown, nodes, wait_for_place
from mifsim.server.ray_models import Models, keep_alike, nearest_copy, node_id, start_models
from mifsim.server.scene import Counters, Scene
from mifsim.server.shard_run import Reply, run_shard
from mifsim.server.tickets import SHARDS_AT_A_TIME, Shard
from mifsim.storage import Folder
from mifsim.study import Server

GC_THRESHOLD = 50_000
"""Objects, more than were freed, that a host makes before its garbage collector runs."""


@ray.remote(max_restarts=-1, max_task_retries=-1, concurrency_groups={"desk": 1})
class SessionHost:
    """Runs shards of sessions; while one waits for the model, another goes on.

    A host that dies is started again, and its shards run again from their seeds: they rewrite the same files. Questions
    from the driver are answered in a thread of their own (the group ``desk``), also while a client of this host trains
    a network for a minute.
    """

    def __init__(self, job: Job, models: Sequence[str], homes: Sequence[str] = ()) -> None:
        # An actor without a GPU of its own sees all of them: hide them, an attacker may train a network here.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._scene = Scene.load(job.study, job.run, job.facts, job.watching)
        # What is there now stays. Queries and answers are tracked by the collector and freed by their counts, in no
        # cycle: with Python's threshold of 700 it spends a tenth of a host's time on looking for one.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        self._model = nearest_copy(models, homes)  # until it is dealt one; again after a restart

    async def ask(self, name: str) -> None:
        """Ask this copy of the model from now on."""
        self._model = ray.get_actor(name)

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
    async def node(self) -> str:
        """Return the node it is on."""
        return node_id()

    @ray.method(concurrency_group="desk")  # type: ignore[untyped-decorator]
    async def blind(self, mark: str) -> str:
        """Return the address of its node where that does not see the folder with this mark; else nothing."""
        return "" if sees(mark) else str(ray.util.get_node_ip_address())

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
        What a study asks of a cluster that is there already, to be refused at once where it cannot be had; where
        the cluster is to grow, it is seen to when the run starts.
    """

    def __init__(self, address: str | None = None, server: Server | None = None) -> None:
        self._address = address
        if address is not None:  # before anything is written: a wrong address must not leave half a run
            connect(address)
            if server is not None and not server.grow_seconds:
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
        with marked(job.run) as mark:
            models, hosts, placed = start_actors(job, model)
            refuse_blind(hosts, job.run, mark)
            homes = models.homes()

            def another() -> tuple[Any, Any]:
                host = start_host(job, placed, models.names, homes)
                return host, host.blind.remote(mark)

            in_flight = min(SHARDS_AT_A_TIME, job.study.server.sessions_per_host)
            hand_out(hosts, shards, watch, in_flight, placed, another)


def refuse_blind(hosts: list[Any], run: Folder, mark: str) -> None:
    """Refuse a run folder that a host's node does not see: it would write its rows where nobody looks for them.

    Raises
    ------
    RunError
    """
    blind = sorted({address for address in ray.get([host.blind.remote(mark) for host in hosts]) if address})
    if blind:
        raise RunError(
            f"{run}: node {', '.join(blind)} does not see this folder; what a run writes, and the cache where a "
            "calibration keeps its recordings (MIFSIM_CACHE_DIR), must be under the same path on all nodes (a network "
            "file system); a run may also be a URL that all nodes have credentials for"
        )


def start_host(job: Job, placed: Plan, models: Sequence[str], homes: Sequence[str] = ()) -> Any:
    """Start a session host, which is not up yet."""
    options = {"num_cpus": placed.cpus, "max_concurrency": 16, "scheduling_strategy": "SPREAD"}
    return SessionHost.options(**options).remote(job, models, homes)  # type: ignore[attr-defined]


def start_actors(job: Job, model: ModelFile) -> tuple[Models, list[Any], Plan]:
    """Start the models and the hosts; return all when they are up and each host knows whom it asks, and the plan."""
    with grown(job.study.server):
        placed = plan(job.study.server, nodes())
        models = start_models(job.study, model, placed)
        hosts = [start_host(job, placed, models.names) for _ in range(placed.hosts)]
        there = wait_for_place([*models.up(), *(host.node.remote() for host in hosts)], placed.cpus, placed)
    if not there:
        models.end()
        for host in hosts:
            ray.kill(host)
        return start_actors(job, model)  # on what is left
    models = keep_alike(models, job.study)
    dealt = deal(ray.get([host.node.remote() for host in hosts]), models.homes())
    ray.get([host.ask.remote(models.names[number]) for host, number in zip(hosts, dealt, strict=True)])
    return models, hosts, replace(placed, replicas=len(models.names))
