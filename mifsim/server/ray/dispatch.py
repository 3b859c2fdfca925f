"""Shards handed out to session hosts as they become free, and what is done when hosts or nodes are lost meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from mifsim.errors import ClusterError, RunError
from mifsim.progress import remark
from mifsim.server.backend import OnProgress
from mifsim.server.client_specs import Shard
from mifsim.server.environment import Counters
from mifsim.server.ray.cluster import LOOK_SECONDS, nodes
from mifsim.server.ray.placement import Node, Placement, describe

POLL_SECONDS = 0.5
STILL_SECONDS = 60.0
"""Without an answered query, after which a run says so."""
ANSWER_SECONDS = 10.0
"""Within which a host that lives answers."""


def dispatch(
    hosts: list[Any],
    shards: Iterator[Shard],
    on_progress: OnProgress,
    in_flight: int,
    placed: Placement | None = None,
    another: Callable[[], tuple[Any, Any]] | None = None,
) -> None:
    """Keep every host busy with `in_flight` shards; the queue is the iterator, so nothing piles up.

    `placed` tells what the actors take up, so that a lost node is noticed; None: nobody looks. `another` starts a host
    in the place of one that was given up, when a node joins; it returns the host, and a reference to its first answer:
    why it is of no use, or nothing.
    """
    hosts = list(hosts)
    free = deque(host for _ in range(in_flight) for host in hosts)
    running: dict[Any, tuple[Any, Shard]] = {}
    again: deque[Shard] = deque()  # shards of hosts that were given up
    monitor = None if placed is None else _ClusterMonitor(placed, another)
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
            if monitor is not None and (gone := monitor.given_up(hosts)):
                hosts = [host for host in hosts if host not in gone]
                free = deque(host for host in free if host not in gone)
                again.extend(shard for host, shard in running.values() if host in gone)
                running = {key: value for key, value in running.items() if value[0] not in gone}
                asked = [host.progress.remote() for host in hosts]
            if monitor is not None and (more := monitor.joined(hosts)):
                hosts += more
                free.extend(host for _ in range(in_flight) for host in more)
                asked = [host.progress.remote() for host in hosts]
            ready, _ = ray.wait(asked, num_returns=len(asked), timeout=0)
            if len(ready) == len(asked):
                total = _sum(asked)
                if monitor is not None:
                    monitor.saw(total)
                on_progress(total)
                asked = [host.progress.remote() for host in hosts]
        asked = [host.progress.remote() for host in hosts]
        on_progress(_sum(ray.wait(asked, num_returns=len(asked), timeout=ANSWER_SECONDS)[0]))
    except RayTaskError as error:
        raise error.cause from None
    finally:
        if monitor is not None:
            monitor.end()
        if running:  # interrupted, or a shard failed: the others give up without leaving part of a file
            _stop(hosts, list(running))


class _ClusterMonitor:
    """Notices what Ray would wait for without a word: a place for actors whose node is lost, a run that stands still.

    Ray starts the actors of a lost node again on those that are left, where they find room. Where they do not, some
    hosts are given up, and the others run their shards, until a node joins and there is a place again.
    """

    def __init__(self, placed: Placement, another: Callable[[], tuple[Any, Any]] | None = None) -> None:
        self._placed = placed
        self._another = another
        self._coming: dict[Any, Any] = {}
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
        self._looked, alive = now, nodes()
        if now - self._moved > STILL_SECONDS:
            self._moved = now
            free = ray.available_resources().get("CPU", 0.0)
            remark(
                f"no query was answered for {STILL_SECONDS:.0f} s; the cluster has {describe(alive)}, "
                f"{free:g} CPUs of it free"
            )
        try:
            excess = replace(self._placed, hosts=len(hosts)).excess(alive)
        except RunError as error:
            raise ClusterError(f"the Ray cluster has lost nodes: {error}") from None
        if not excess:
            self._fill(len(hosts), alive)
            return []
        self.end()  # they have no place any more
        answers = {host.pid.remote(): host for host in hosts}
        ready, silent = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_SECONDS)
        ended = [answers[reference] for reference in (*silent, *ready)][:excess]
        for host in ended:
            ray.kill(host)
        remark(
            f"the cluster has lost nodes, {describe(alive)} are left: going on with {len(hosts) - excess} of "
            f"{len(hosts)} session hosts"
        )
        return ended

    def _fill(self, hosts: int, alive: list[Node]) -> None:
        if self._another is None:
            return
        for _ in range(self._placed.free_slots(alive, hosts + len(self._coming))):
            host, answer = self._another()
            self._coming[answer] = host

    def joined(self, hosts: list[Any]) -> list[Any]:
        """Return the hosts that were started for others and are up now: only then are they given shards."""
        if not self._coming:
            return []
        ready, _ = ray.wait(list(self._coming), num_returns=len(self._coming), timeout=0)
        up = []
        for answer in ready:
            host = self._coming.pop(answer)
            if not (useless := ray.get(answer)):
                up.append(host)
                continue
            ray.kill(host)
            if self._another is not None:
                remark(f"node {useless}, which joined, does not see the run's folder: it gets no session host")
                self._another = None  # the next one would come to the same node
        if up:
            remark(f"the cluster has {describe(nodes())} again: going on with {len(hosts) + len(up)} session hosts")
        return up

    def end(self) -> None:
        """Give up the hosts that are not up yet."""
        for host in self._coming.values():
            ray.kill(host)
        self._coming.clear()


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
