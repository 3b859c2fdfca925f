"""Schedule shards on session hosts; recover from lost hosts and nodes."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from mifsim.errors import ClusterError, RunError
from mifsim.server.backend import OnProgress
from mifsim.server.client_specs import Shard
from mifsim.server.environment import Counters
from mifsim.server.ray.cluster import CHECK_SECONDS, nodes
from mifsim.server.ray.placement import Node, Placement, describe

logger = logging.getLogger(__name__)


POLL_SECONDS = 0.5
STALL_SECONDS = 60.0
"""Time without an answered query after which the run logs a line."""
ANSWER_SECONDS = 10.0
"""Time limit for an answer from a live host."""


def dispatch(
    hosts: list[Any],
    shards: Iterator[Shard],
    on_progress: OnProgress,
    in_flight: int,
    placement: Placement | None = None,
    start_replacement: Callable[[], tuple[Any, Any]] | None = None,
) -> None:
    """Run all shards, `in_flight` per host at a time.

    Parameters
    ----------
    hosts : list of handles
        Session hosts that are up.
    shards : iterator of Shard
        Consumed as hosts become free, so that only shards in flight are in memory.
    on_progress : callable
        Called with the hosts' total counters.
    in_flight : int
        Shards per host.
    placement : Placement or None
        The actors' resources, by which lost nodes are detected; None: they are not detected.
    start_replacement : callable or None
        Starts a host to replace a removed one when a node joins. Returns the host, and a reference to the address of
        its node if that does not see the run's folder, else to an empty string.

    Raises
    ------
    ClusterError
        If the remaining nodes cannot continue the run.
    """
    hosts = list(hosts)
    free = deque(host for _ in range(in_flight) for host in hosts)
    running: dict[Any, tuple[Any, Shard]] = {}
    requeued: deque[Shard] = deque()  # shards of removed hosts
    monitor = None if placement is None else _ClusterMonitor(placement, start_replacement)
    counters = [host.progress.remote() for host in hosts]
    try:
        while True:
            while free and (shard := requeued.popleft() if requeued else next(shards, None)) is not None:
                host = free.popleft()
                running[host.run_shard.remote(shard)] = host, shard
            if not running:
                break
            done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for reference in done:
                free.append(running.pop(reference)[0])
                ray.get(reference)
            if monitor is not None and (removed := monitor.remove_excess(hosts)):
                hosts = [host for host in hosts if host not in removed]
                free = deque(host for host in free if host not in removed)
                requeued.extend(shard for host, shard in running.values() if host in removed)
                running = {key: value for key, value in running.items() if value[0] not in removed}
                counters = [host.progress.remote() for host in hosts]
            if monitor is not None and (joined := monitor.joined(hosts)):
                hosts += joined
                free.extend(host for _ in range(in_flight) for host in joined)
                counters = [host.progress.remote() for host in hosts]
            ready, _ = ray.wait(counters, num_returns=len(counters), timeout=0)
            if len(ready) == len(counters):
                total = _sum(counters)
                if monitor is not None:
                    monitor.record(total)
                on_progress(total)
                counters = [host.progress.remote() for host in hosts]
        counters = [host.progress.remote() for host in hosts]
        on_progress(_sum(ray.wait(counters, num_returns=len(counters), timeout=ANSWER_SECONDS)[0]))
    except RayTaskError as error:
        raise error.cause from None
    finally:
        if monitor is not None:
            monitor.end()
        if running:  # interrupted, or a shard failed: the other shards stop without leaving partial files
            _stop(hosts, list(running))


class _ClusterMonitor:
    """Detect lost nodes and stalled runs, for which Ray would wait silently.

    Ray restarts the actors of a lost node on the remaining nodes, as far as their capacity allows. The monitor removes
    the hosts in excess of it; the other hosts run their shards. When a node joins, it starts hosts to replace them.
    """

    def __init__(self, placement: Placement, start_replacement: Callable[[], tuple[Any, Any]] | None = None) -> None:
        self._placement = placement
        self._start_replacement = start_replacement
        self._starting: dict[Any, Any] = {}
        self._queries = -1
        self._checked = self._progressed = time.monotonic()

    def record(self, done: Counters) -> None:
        """Record the progress of the run."""
        if done.queries != self._queries:
            self._queries, self._progressed = done.queries, time.monotonic()

    def remove_excess(self, hosts: list[Any]) -> list[Any]:
        """End the hosts that do not fit onto the cluster any more, unresponsive ones first; return them.

        Raises
        ------
        ClusterError
            If the remaining nodes cannot continue the run.
        """
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return []
        self._checked, alive = now, nodes()
        if now - self._progressed > STALL_SECONDS:
            self._progressed = now
            free = ray.available_resources().get("CPU", 0.0)
            logger.info(
                f"no query was answered for {STALL_SECONDS:.0f} s; the cluster has {describe(alive)}; free CPUs: "
                f"{free:g}"
            )
        try:
            excess = replace(self._placement, hosts=len(hosts)).excess(alive)
        except RunError as error:
            raise ClusterError(f"the Ray cluster has lost nodes: {error}") from None
        if not excess:
            self._fill(len(hosts), alive)
            return []
        self.end()  # there is no capacity for replacements either
        pids = {host.pid.remote(): host for host in hosts}
        ready, silent = ray.wait(list(pids), num_returns=len(pids), timeout=ANSWER_SECONDS)
        ended = [pids[reference] for reference in (*silent, *ready)][:excess]
        for host in ended:
            ray.kill(host)
        logger.info(
            f"the cluster has lost nodes, {describe(alive)} are left: continuing with {len(hosts) - excess} of "
            f"{len(hosts)} session hosts"
        )
        return ended

    def _fill(self, hosts: int, alive: list[Node]) -> None:
        if self._start_replacement is None:
            return
        for _ in range(self._placement.free_slots(alive, hosts + len(self._starting))):
            host, check = self._start_replacement()
            self._starting[check] = host

    def joined(self, hosts: list[Any]) -> list[Any]:
        """Return the replacements that are up and see the run's folder; only these are given shards."""
        if not self._starting:
            return []
        ready, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=0)
        up = []
        for check in ready:
            host = self._starting.pop(check)
            if not (address := ray.get(check)):
                up.append(host)
                continue
            ray.kill(host)
            if self._start_replacement is not None:
                logger.info(
                    f"node {address}, which joined, does not see the run's folder: no session host is started on it"
                )
                self._start_replacement = None  # Ray would place the next host on the same node
        if up:
            logger.info(
                f"the cluster has {describe(nodes())} again: continuing with {len(hosts) + len(up)} session hosts"
            )
        return up

    def end(self) -> None:
        """End the replacements that are not up yet."""
        for host in self._starting.values():
            ray.kill(host)
        self._starting.clear()


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
        pass  # an unresponsive host ends with the cluster; a resumed run removes its partial files
