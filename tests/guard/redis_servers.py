"""Redis servers for tests: one in this process, and a real one where it is installed."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

INSTALLED = shutil.which("redis-server") or shutil.which("valkey-server")
SECONDS = 30.0


@contextlib.contextmanager
def imitated() -> Iterator[str]:
    """Run a server in a thread of this process, and yield its URL."""
    from fakeredis import TcpFakeServer

    server = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def real(folder: Path, *options: str, port: int | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a server that keeps its data in a folder, and yield its URL and process."""
    assert INSTALLED is not None
    port = free_port() if port is None else port
    process = subprocess.Popen(
        [
            INSTALLED, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
            "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", *options,
        ],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(100)[:5] in (b"+PONG", b"-NOAU"):
                    break
            time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}/0", process
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
