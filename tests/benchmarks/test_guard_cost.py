"""The cost of a guard: processor and elapsed time of a request, and the latency that it adds at half load."""

from __future__ import annotations

import asyncio
import statistics

import numpy as np

from tests.benchmarks.guard_servers import closed_loop, connections, open_loop, processor_time, requests, server

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
