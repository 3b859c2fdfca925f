"""Servers whose cost `tests/benchmarks/test_guard_cost.py` compares, and the clients that measure it.

``python -m tests.benchmarks.guard_servers FOLDER [UPSTREAM]`` serves, in one process, an application that reads a
request and answers it, a guard in the same process before it (``/embedded``) and, if an upstream is given, a guard as a
reverse proxy, which judges ``/judged`` and passes on ``/unjudged``. ``/time`` states the processor time so far. All are
in one process, because two equal processes differ on a machine that does other work.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from mifsim.defense import FilterConfig
from mifsim.guard.arrival import write_png

SHAPE = (28, 28)
CONFIG = FilterConfig(t_ssim=0.9, t_hash=0.05, n_b=10, l_sp=1_000_000)
"""All ten images of the buffer pass the test of the hash, so that ten SSIMs are computed for each query."""
CLIENTS, CONNECTIONS, IMAGES = 200, 16, 397


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Read a request, and answer it."""
    while (await receive()).get("more_body"):
        pass
    await reply(send, b'{"predictions": [[0.1, 0.9]]}')


async def reply(send: Any, body: bytes) -> None:
    """Send a response."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def serve(folder: Path, upstream: str) -> None:
    """Serve until the process is ended; the port is printed."""
    import uvicorn

    from mifsim.guard import GuardConfig, GuardMiddleware
    from mifsim.guard.app import GuardApp
    from mifsim.guard.core import GuardService
    from mifsim.guard.garbage import search_less
    from mifsim.guard.upstream import HttpUpstream

    CONFIG.save(folder / "filter.toml", {"data": {"shape": list(SHAPE)}})

    def settings(name: str) -> GuardConfig:
        return GuardConfig.parse(
            {
                "filter": str(folder / "filter.toml"),
                "uncertified": True,
                "ledger": {"url": f"sqlite:{folder / name}.db"},
                "identity": {"source": "header:x-user"},
                "upstream": {"url": upstream, "unjudged": ["POST /unjudged"]},
            }
        )

    services = {"/embedded": GuardMiddleware(echo, settings("embedded"))}
    apps: dict[str, Any] = {**services}
    guards = [services["/embedded"].guard]
    if upstream:
        guards.append(GuardService(settings("proxy"), HttpUpstream(settings("proxy").upstream)))
        apps |= dict.fromkeys(("/judged", "/unjudged"), GuardApp(guards[-1]))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/time":
            await reply(send, str(time.process_time()).encode())
        else:
            await apps.get(scope["path"], echo)(scope, receive, send)

    for guard in guards:
        await guard.start()
        await guard.warm_up()
    search_less()  # as `mifsim guard` does
    config = uvicorn.Config(app, port=0, log_level="warning", access_log=False, lifespan="off", timeout_keep_alive=60)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await task


@contextlib.contextmanager
def server(folder: Path, upstream: str = "") -> Iterator[int]:
    """Run the servers in a process of their own; the value is the port."""
    command = [sys.executable, "-m", "tests.benchmarks.guard_servers", str(folder), upstream]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def guard_with_workers(folder: Path, url: str, workers: int) -> Iterator[tuple[int, list[int]]]:
    """Run ``mifsim guard`` before a model server; the value is the port, and the processes that serve."""
    CONFIG.save(folder / "filter.toml", {"data": {"shape": list(SHAPE)}})
    command = [
        sys.executable, "-m", "mifsim", "guard", str(folder / "filter.toml"), "--uncertified", "--upstream", url,
        "--identity", "header:x-user", "--ledger", f"sqlite:{folder / 'guard.db'}", "--port", "0", "--workers",
        str(workers),
    ]  # fmt: skip
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=root, env=environment) as process:
        try:
            assert process.stderr is not None
            address = next(line for line in process.stderr if "listening on" in line)
            port = int(address.rpartition(":")[2].split()[0].rstrip("/"))
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            asyncio.run(_until_ready(port))
            yield port, [int(child) for child in children] if workers > 1 else [process.pid]
        finally:
            process.terminate()


async def _until_ready(port: int) -> None:
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        text = await reader.read()
        writer.close()
        if b" 200 " in text[:16]:
            return
        await asyncio.sleep(0.1)


def processor_time_of(process: int) -> float:
    """Return the processor time that a process has used, in seconds; Linux only."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def requests(path: str, images: bool = True) -> list[bytes]:
    """Return requests with image files of several clients; their type says whether they are images."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(IMAGES * 3):
        body = write_png(rng.integers(0, 256, SHAPE, dtype=np.uint8))
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\nx-user: {number % CLIENTS}\r\n"
            f"content-type: {'image/png' if images else 'application/octet-stream'}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        found.append(head.encode() + body)
    return found


class Connection:
    """An open connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> bytes:
        """Send a request; return the body of the answer, whose status must be 200."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head[:16], head
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def connections(port: int, number: int = CONNECTIONS) -> Any:
    """Open connections for the duration of the context."""
    opened = [await Connection.open(port) for _ in range(number)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def closed_loop(opened: list[Connection], sent: list[bytes], number: int) -> float:
    """Send requests, as many at a time as there are connections; return the seconds."""
    numbers = iter(range(number))

    async def work(connection: Connection) -> None:
        for place in numbers:
            await connection.ask(sent[place % len(sent)])

    start = time.perf_counter()
    await asyncio.gather(*map(work, opened))
    return time.perf_counter() - start


async def open_loop(opened: list[Connection], sent: list[bytes], rate: float, seconds: float) -> list[float]:
    """Send requests at fixed times, whether or not earlier ones are answered.

    Returns
    -------
    list of float
        Seconds from the time at which each request should have been sent to its answer. A server that stalls delays all
        requests of that time, not only one.
    """
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in opened:
        free.put_nowait(connection)
    latencies: list[float] = []

    async def one(due: float, request: bytes) -> None:
        connection = await free.get()
        await connection.ask(request)
        latencies.append(time.perf_counter() - due)
        free.put_nowait(connection)

    gc.collect()
    gc.disable()  # a search for reference cycles in the sender would look like a server that stalls
    try:
        start, tasks = time.perf_counter(), []
        for place in range(int(rate * seconds)):
            due = start + place / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(one(due, sent[place % len(sent)])))
        await asyncio.gather(*tasks)
    finally:
        gc.enable()
    return latencies


async def processor_time(connection: Connection) -> float:
    """Return the processor time of the servers' process, in seconds."""
    return float(await connection.ask(b"GET /time HTTP/1.1\r\nhost: localhost\r\n\r\n"))


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), sys.argv[2]))
