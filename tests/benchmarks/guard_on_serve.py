"""The processor time of a request to a guard on Ray Serve, against the same guard without Ray.

``python -m tests.benchmarks.guard_on_serve`` sends images of 28x28 of 200 clients over 16 connections to both, with one
ledger in Redis (as in the tests, in this process) and one model server. The time is that of all processes of the guard:
of Ray Serve, also the proxy, the controller and Ray's own.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.guard_servers import CONFIG, SHAPE, closed_loop, connections, requests, server
from tests.chaos.processes import descendants
from tests.guard import redis_servers
from tests.guard.guard_processes import Running, ready
from tests.guard.served_by_ray import ServedByRay, until

ROUNDS, REQUESTS = 5, 300
_TICKS = os.sysconf("SC_CLK_TCK")


def processor_time(pids: list[int]) -> float:
    """Return the processor seconds of processes so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(row[11]) + int(row[12]) for row in fields) / _TICKS


async def cost(port: int, pids: Callable[[], list[int]]) -> tuple[float, float]:
    """Return the median processor and elapsed seconds of a request."""
    sent, used, elapsed = requests("/judged"), [], []
    async with connections(port) as opened:
        await closed_loop(opened, sent, REQUESTS)
        for _ in range(ROUNDS):
            before = processor_time(pids())
            elapsed.append(await closed_loop(opened, sent, REQUESTS) / REQUESTS)
            used.append((processor_time(pids()) - before) / REQUESTS)
    return statistics.median(used), statistics.median(elapsed)


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as name, redis_servers.imitated() as redis:
        folder = Path(name)
        (folder / "model").mkdir()
        CONFIG.save(folder / "filter.toml", {"data": {"shape": list(SHAPE)}})
        with server(folder / "model") as model:
            url = f"http://127.0.0.1:{model}"
            tables = {"uncertified": True, "sessions": {"count_unanswered": True}}
            (folder / "guard.toml").write_text(
                f'filter = "filter.toml"\nuncertified = true\n[upstream]\nurl = "{url}"\n[ledger]\nurl = "{redis}"\n'
                '[identity]\nsource = "header:x-user"\nkey_file = "key"\n[listen]\nport = 0\n'
                "[sessions]\ncount_unanswered = true\n"
            )
            plain = Running(
                [sys.executable, "-m", "mifsim", "guard", "--config", str(folder / "guard.toml")],
                r"listening on https?://[^:]+:(\d+)",
            )
            ready(plain)
            alone = asyncio.run(cost(plain.port, lambda: [plain.process.pid]))
            plain.kill()
            served = ServedByRay(folder, redis, url, **tables)
            try:
                until(lambda: len(served.processes("ServeReplica")) == 4)
                pids = [served.process.pid, *descendants(served.process.pid)]
                on_serve = asyncio.run(cost(served.port, lambda: pids))
            finally:
                served.stop()
    for label, (used, elapsed) in (("without Ray", alone), ("on Ray Serve", on_serve)):
        print(f"{label}: {used * 1e6:,.0f} µs of processor time, {elapsed * 1e6:,.0f} µs elapsed per request")
    print(f"ratio of processor time: {on_serve[0] / alone[0]:.1f}")


if __name__ == "__main__":
    main()
