"""The Ray backend: starts the model's replicas and the session hosts, and runs shards on them."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray

from mifsim.errors import RunError
from mifsim.plugins import declare_own_process
from mifsim.processor import processor, report_processors
from mifsim.server.backend import Job, OnProgress
from mifsim.server.client_specs import SHARDS_AT_A_TIME, Shard
from mifsim.server.environment import Counters, Environment
from mifsim.server.ray.cluster import autoscaled, connect, connected, nodes, translate_errors, wait_for_place
from mifsim.server.ray.dispatch import dispatch
from mifsim.server.ray.models import Models, drop_divergent_replicas, nearest_copy, node_id, start_models
from mifsim.server.ray.placement import Placement, assign_replicas, place_actors
from mifsim.server.shard_run import Reply, run_shard
from mifsim.server.shared_storage import sees_sentinel, sentinel_file
from mifsim.study import Server
from mifsim.tables.storage import Folder
from mifsim.victims import ModelSource

GC_THRESHOLD = 50_000
"""Net object allocations before a host's garbage collector runs."""


@ray.remote(max_restarts=-1, max_task_retries=-1, concurrency_groups={"control": 1})
class SessionHost:
    """Run shards of sessions concurrently: while one waits for the model, another continues.

    Ray restarts a failed host and its shards, which run again from their seeds and rewrite the same files. The
    concurrency group ``control`` answers the driver in a separate thread, even while a client on this host trains a
    network for a minute.
    """

    def __init__(self, job: Job, models: Sequence[str], node_ids: Sequence[str] = ()) -> None:
        declare_own_process()
        # An actor that requests no GPU sees all of them. Hide them: an attacker may train a network on this host.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._environment = Environment.load(job.study, job.run, job.facts, job.recording, job.separate_images)
        # Existing objects are permanent. Queries and answers form no cycles, so reference counts free them. With
        # Python's threshold of 700 the collector would take a tenth of a host's time.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        self._model = nearest_copy(models, node_ids)  # until the driver assigns one, and after a restart

    async def use_model(self, name: str) -> None:
        """Send further queries to the replica of the model with this name."""
        self._model = ray.get_actor(name)

    async def run_shard(self, shard: Shard) -> int:
        """Run one shard; return its number when its files are complete."""
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

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    async def progress(self) -> Counters:
        """Return the host's counters."""
        return self._environment.counters

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    async def node(self) -> str:
        """Return the id of the host's node."""
        return node_id()

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    async def missing_sentinel(self, sentinel: str) -> str:
        """Return the address of the host's node if it does not see the sentinel file, else an empty string."""
        return "" if sees_sentinel(sentinel) else str(ray.util.get_node_ip_address())

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    async def processor(self) -> str:
        """Return the name of the processor of the host's node."""
        return processor()

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    async def pid(self) -> int:
        """Return the host's process id."""
        return os.getpid()

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    async def loaded_modules(self) -> list[str]:
        """Return the top-level modules that the host has imported, for a test that TensorFlow is not among them."""
        return sorted({name.partition(".")[0] for name in sys.modules})

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Stop the running shards at their next round."""
        self._environment.stopping = True


class OnRay:
    """The Ray backend.

    Parameters
    ----------
    address : str or None
        Address of a cluster; None starts a local one, with Ray's token authentication, on loopback only.
    server : Server or None
        The ``[server]`` section of a study, which is checked against the cluster at once; with ``grow_seconds`` it is
        checked when the run starts.

    Raises
    ------
    RunError
        If the cluster does not answer, or cannot hold the actors of `server`.
    """

    def __init__(self, address: str | None = None, server: Server | None = None) -> None:
        self._address = address
        if address is not None:  # before anything is written: a wrong address must not leave a partial run
            connect(address)
            if server is not None and not server.grow_seconds:
                place_actors(server, nodes())

    def run(self, job: Job, model: ModelSource, shards: Iterator[Shard], on_progress: OnProgress) -> None:
        """Run all shards; see `Backend.run`."""
        with connected(self._address), translate_errors():
            self._run(job, model, shards, on_progress)

    def _run(self, job: Job, model: ModelSource, shards: Iterator[Shard], on_progress: OnProgress) -> None:
        # The driver's handles keep the models alive; the hosts' lookups by name do not.
        with sentinel_file(job.run) as sentinel:
            models, hosts, placement = start_actors(job, model)
            require_shared_folder(hosts, job.run, sentinel)
            report_processors(ray.get([host.processor.remote() for host in hosts]))
            node_ids = models.node_ids()

            def start_replacement() -> tuple[Any, Any]:
                host = start_host(job, placement, models.names, node_ids)
                return host, host.missing_sentinel.remote(sentinel)

            in_flight = min(SHARDS_AT_A_TIME, job.study.server.sessions_per_host)
            dispatch(hosts, shards, on_progress, in_flight, placement, start_replacement)


def require_shared_folder(hosts: list[Any], run: Folder, sentinel: str) -> None:
    """Check that every host's node sees the run's folder; the driver would not find the rows of one that does not.

    Raises
    ------
    RunError
        If a node does not see the folder.
    """
    addresses = {address for address in ray.get([host.missing_sentinel.remote(sentinel) for host in hosts]) if address}
    if addresses:
        raise RunError(
            f"{run}: node {', '.join(sorted(addresses))} does not see this folder; the run's folder, and the cache in "
            "which a calibration keeps its recordings (MIFSIM_CACHE_DIR), must be under the same path on all nodes "
            "(a network file system); a run may also be a URL that all nodes have credentials for"
        )


def start_host(job: Job, placement: Placement, models: Sequence[str], node_ids: Sequence[str] = ()) -> Any:
    """Start a session host, without waiting until it is up."""
    options = {"num_cpus": placement.cpus, "max_concurrency": 16, "scheduling_strategy": "SPREAD"}
    return SessionHost.options(**options).remote(job, models, node_ids)  # type: ignore[attr-defined]


def start_actors(job: Job, model: ModelSource) -> tuple[Models, list[Any], Placement]:
    """Start the model's replicas and the hosts; return them and their placement when all are up and assigned."""
    with autoscaled(job.study.server):
        placement = place_actors(job.study.server, nodes())
        models = start_models(job.study, model, placement)
        hosts = [start_host(job, placement, models.names) for _ in range(placement.hosts)]
        first_answers = [*models.up(), *(host.node.remote() for host in hosts)]
        all_up = wait_for_place(first_answers, placement.cpus, placement)
    if not all_up:
        models.end()
        for host in hosts:
            ray.kill(host)
        return start_actors(job, model)  # on the remaining nodes
    models = drop_divergent_replicas(models, job.study, model.deterministic, model.gradients)
    assigned = assign_replicas(ray.get([host.node.remote() for host in hosts]), models.node_ids())
    ray.get([host.use_model.remote(models.names[number]) for host, number in zip(hosts, assigned, strict=True)])
    return models, hosts, replace(placement, replicas=len(models.names))
