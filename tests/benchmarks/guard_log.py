"""The cost of the traffic log: processor time of an embedded guard for a request, with and without the log.

``python -m tests.benchmarks.guard_log`` starts a server (uvicorn) with two guards before an application that does
nothing, one of which writes the log, and sends image files of 28 x 28 pixels to both in turn, in short rounds. Both are
in one process, because two equal processes differ by more than the log costs on a machine that does other work. The
threads that write the log are counted with the guard that has it, and so are the Parquet files, of which several are
completed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mifsim.defense import FilterConfig
from tests.benchmarks.guard_servers import echo, reply

SHAPE = (28, 28)
CONFIG = FilterConfig(t_ssim=0.999, t_hash=1e-4, n_b=10, l_sp=100_000)
CLIENTS, CONNECTIONS, IMAGES = 200, 16, 397
ROUNDS, REQUESTS = 160, 100
TARGET = 0.95


def serve(folder: Path) -> None:
    """Run the server; its port is printed."""
    import uvicorn

    from mifsim.guard import GuardConfig, GuardMiddleware
    from mifsim.guard.garbage import search_less

    def guarded(name: str, log: str) -> Any:
        plain = {
            "filter": str(folder / "filter.toml"),
            "ledger": {"url": f"sqlite:{folder / name}.db"},
            "identity": {"source": "header:x-user"},
            "log": {"folder": log, "rotate_mb": 8},
        }
        return GuardMiddleware(echo, GuardConfig.parse(plain))

    guards = {"/off": guarded("off", ""), "/on": guarded("on", str(folder / "traffic"))}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/time":  # of the thread that answers, and of the others, which write the log
            answering = time.thread_time()
            await reply(send, json.dumps([answering, time.process_time() - answering]).encode())
        else:
            await guards[scope["path"]](scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False, lifespan="off"))

    async def run() -> None:
        for guard in guards.values():
            await guard.guard.start()
            await guard.guard.warm_up()
        search_less()  # as `mifsim guard` does
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        await task
        for guard in guards.values():
            await guard.guard.stop()

    asyncio.run(run())


def requests(size: int) -> list[bytes]:
    """Return the bytes of requests with different images."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(size):
        blob = cv2.GaussianBlur(rng.random(SHAPE, dtype=np.float32), (0, 0), 1.5)
        scaled = cv2.normalize(blob, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload]
        found.append(cv2.imencode(".png", scaled)[1].tobytes())
    return found


async def send(port: int, path: str, images: list[bytes], first: int, count: int) -> None:
    """Send a number of requests over some connections, each of which waits for its answers."""
    numbers = iter(range(first, first + count))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            image = images[number % len(images)]
            head = f"POST {path} HTTP/1.1\r\nhost: a\r\nx-user: u{number % CLIENTS}\r\ncontent-type: image/png\r\n"
            writer.write(f"{head}content-length: {len(image)}\r\n\r\n".encode() + image)
            header = await reader.readuntil(b"\r\n\r\n")
            if not header.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(header.decode())
            length = next(line for line in header.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))


async def times(port: int) -> tuple[float, float]:
    """Return the processor time of the thread that answers, and of all others, in microseconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /time HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    text = await reader.read()
    writer.close()
    answering, others = json.loads(text.rpartition(b"\r\n\r\n")[2])
    return answering * 1e6, others * 1e6


async def measure(port: int) -> tuple[float, float, float]:
    """Return the processor time of a request without the log, and what the log adds in this thread and in others."""
    images = requests(IMAGES)
    found: dict[str, list[float]] = {"/off": [], "/on": []}
    for path in found:
        await send(port, path, images, 0, REQUESTS)
    await asyncio.sleep(1.0)  # the rows are written
    _, before = await times(port)
    for number in range(1, ROUNDS + 1):
        for path in ("/off", "/on") if number % 2 else ("/on", "/off"):
            start, _ = await times(port)
            await send(port, path, images, number * REQUESTS, REQUESTS)
            found[path].append(((await times(port))[0] - start) / REQUESTS)
    await asyncio.sleep(1.0)
    _, after = await times(port)
    # Other work on the machine only adds time, so the lower tenth is nearer to the cost than the median.
    off, on = (float(np.quantile(found[path], 0.1)) for path in ("/off", "/on"))
    return off, on - off, (after - before) / (ROUNDS * REQUESTS)


def main() -> None:
    """Measure, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, metavar="FOLDER", help="run the server; used by this program itself")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    off, answering, writing, files = measured_costs()
    print(f"processor time of a request without the log: {off:.0f} us")
    print(f"the log adds {answering:.1f} us to it and {writing:.1f} us in other threads ({files} files)")
    print(f"speed with the log, as a share of that without: {off / (off + answering + writing):.3f} (target {TARGET})")


def measured_costs() -> tuple[float, float, float, int]:
    """Return what `measure` does, and the number of files of the log."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload = {"name": "u", "false_positive_limit": 0.01, "sessions": 640, "blocked": 0, "longest_session": 10**9}
        facts = {"shape": list(SHAPE), "transport": "float32", "response": "confidence"}
        CONFIG.save(folder / "filter.toml", {"guarantee": {"text": "x", "workloads": [workload]}, "data": facts})
        command = [sys.executable, "-m", "tests.benchmarks.guard_log", "--serve", name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                off, answering, writing = asyncio.run(measure(int(server.stdout.readline())))
            finally:
                server.terminate()
        return off, answering, writing, len(list((folder / "traffic").glob("*.parquet")))


if __name__ == "__main__":
    main()
