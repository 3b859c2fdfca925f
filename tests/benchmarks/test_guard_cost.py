"""The cost of a guard: processor and elapsed time of a request, the latency that it adds at half load, log, workers."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys

import numpy as np
import pytest

from tests.benchmarks import guard_bound, guard_log
from tests.benchmarks.guard_servers import (
    closed_loop,
    connections,
    guard_with_workers,
    open_loop,
    processor_time,
    processor_time_of,
    requests,
    server,
)

ROUNDS, REQUESTS = 21, 300
SECONDS = 5.0
"""Duration of each run that measures latencies."""


async def _costs(port, paths):
    """Return the medians of processor and elapsed seconds of a request for each path, measured in turn."""
    found = {path: ([], []) for path in paths}
    sent = {path: requests(path, images=path != "/unjudged") for path in paths}
    async with connections(port) as opened, connections(port, 1) as (clock,):
        for number in range(ROUNDS + 1):
            for path in paths:
                before = await processor_time(clock)
                elapsed = await closed_loop(opened, sent[path], REQUESTS)
                if number:  # the first round warms up
                    found[path][0].append((await processor_time(clock) - before) / REQUESTS)
                    found[path][1].append(elapsed / REQUESTS)
    return {path: tuple(map(statistics.median, values)) for path, values in found.items()}


def test_embedded_guard(measured, tmp_path):
    with server(tmp_path) as port:
        costs = asyncio.run(_costs(port, ["/echo", "/embedded"]))
    for place, kind in enumerate(("processor time", "elapsed time")):
        value = costs["/echo"][place] / costs["/embedded"][place]
        measured(f"embedded guard, 28x28, n_b 10: rate against uvicorn alone, by {kind}", value, at_least=0.3)
    measured("  processor time of a request to the embedded guard", costs["/embedded"][0] * 1e6, unit="us")
    needed = sum(guard_bound.parts(tmp_path).values())
    measured("  of this, compiled work that each request needs", needed * 1e6, unit="us")
    bound = costs["/echo"][0] / (costs["/echo"][0] + needed)
    measured("  bound of the rate: without any Python in the guard", bound)


def test_proxy(measured, tmp_path):
    (tmp_path / "upstream").mkdir()
    with server(tmp_path / "upstream") as upstream, server(tmp_path, f"http://127.0.0.1:{upstream}") as port:
        costs = asyncio.run(_costs(port, ["/unjudged", "/judged"]))
        for place, kind in enumerate(("processor time", "elapsed time")):
            value = costs["/unjudged"][place] / costs["/judged"][place]
            measured(f"proxy with detector, 28x28: rate against the proxy without, by {kind}", value, at_least=0.75)
        measured("  processor time of a request to the proxy", costs["/judged"][0] * 1e6, unit="us")

        async def latencies(of, path, rate):
            async with connections(of, 64) as opened:
                return np.quantile(await open_loop(opened, requests(path), rate, SECONDS), [0.5, 0.99]) * 1e3

        rate = 0.5 / costs["/judged"][1]
        without = asyncio.run(latencies(upstream, "/echo", rate))
        with_guard = asyncio.run(latencies(port, "/judged", rate))
    added = with_guard - without
    measured(f"latency that the proxy adds at half load ({rate:,.0f}/s): median", added[0], at_most=2, unit="ms")
    measured("  99th percentile", added[1], at_most=10, unit="ms")


def test_log(measured):
    off, answering, writing, files = guard_log.measured_costs()
    assert files
    value = off / (off + answering + writing)
    measured("embedded guard with traffic log: rate against without, by processor time", value, at_least=0.95)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, which only Linux has")
def test_workers(measured, tmp_path):
    """Two workers on two free cores.

    By processor time: what two cores can serve, as the busier worker limits it, and if both had the same work. By
    elapsed time only if there are cores for both workers, the model server and the sender.
    """
    for name in ("upstream", "one", "two"):
        (tmp_path / name).mkdir()
    costs = {1: ([], [], []), 2: ([], [], [])}
    with server(tmp_path / "upstream") as upstream:
        url = f"http://127.0.0.1:{upstream}"
        with guard_with_workers(tmp_path / "one", url, 1) as one, guard_with_workers(tmp_path / "two", url, 2) as two:

            async def measure():
                sent = requests("/judged")
                async with connections(one[0]) as first, connections(two[0]) as second:
                    for number in range(ROUNDS + 1):
                        for workers, opened, processes in ((1, first, one[1]), (2, second, two[1])):
                            before = [processor_time_of(process) for process in processes]
                            elapsed = await closed_loop(opened, sent, REQUESTS)
                            if number:  # the first round warms up
                                used = [processor_time_of(p) - b for p, b in zip(processes, before, strict=True)]
                                costs[workers][0].append(max(used))
                                costs[workers][1].append(sum(used) / workers)
                                costs[workers][2].append(elapsed)

            asyncio.run(measure())
    kinds = ("processor time of the busier worker", "their mean processor time", "elapsed time")
    for place, kind in enumerate(kinds):
        if place < 2 or len(os.sched_getaffinity(0)) >= 4:
            value = sum(costs[1][place]) / sum(costs[2][place])  # a clock tick is 10 ms, so that medians are coarse
            measured(f"two workers: rate against one, by {kind}", value, at_least=1.7)
