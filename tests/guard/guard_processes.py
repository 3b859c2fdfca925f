"""A guard and a model server as processes on loopback, and requests to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mifsim.guard.message import Request
from mifsim.guard.wire import wire_class
from mifsim.testing.streams import image_pool
from tests.guard.guards import SHAPE
from tests.guard.test_wires import PATHS, arrival_of

POOL = image_pool(SHAPE)
SECONDS = 60.0


class Running:
    """A process that listens on a port of loopback."""

    def __init__(self, command: list[str], pattern: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )  # fmt: skip
        self.lines: list[str] = []
        self._found = threading.Event()
        self.port = 0
        threading.Thread(target=self._read, args=(pattern,), daemon=True).start()
        if not self._found.wait(SECONDS):
            self.kill()
            raise RuntimeError("no port:\n" + "".join(self.lines))

    def _read(self, pattern: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if not self.port and (match := re.search(pattern, line)):
                self.port = int(match[1])
                self._found.set()
        self._found.set()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def send(self, request: Request, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            fields = {**dict(request.headers), **(headers or {})}
            connection.request(request.method, request.target, request.body or None, fields)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


def model_server() -> Running:
    return Running([sys.executable, "-m", "tests.guard.upstream_process", json.dumps(SHAPE)], r"^(\d+)$")


def guard(folder: Path, upstream: Running, *options: str) -> Running:
    command = [
        sys.executable, "-m", "mifsim", "guard", str(folder / "filter.toml"), "--upstream",
        f"http://127.0.0.1:{upstream.port}", "--port", "0", "--identity", "header:x-user", "--ledger",
        f"sqlite:{folder / 'guard.db'}", *options,
    ]  # fmt: skip
    started = Running(command, r"listening on https?://[^:]+:(\d+)")
    ready(started)
    return started


def ready(running: Running) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if running.process.poll() is not None:
            raise RuntimeError("".join(running.lines))
        with contextlib.suppress(OSError):
            if running.send(Request("GET", "/readyz"))[0] == 200:
                return
        time.sleep(0.02)
    raise RuntimeError("not ready: " + "".join(running.lines))


def image_request(name: str, image: Any) -> Request:
    return wire_class(name)(arrival_of(SHAPE)).compose([image], PATHS.get(name, "/classify"))


def statuses(running: Running, images: list[Any], user: str, wire: str = "npy") -> list[int]:
    return [running.send(image_request(wire, image), {"x-user": user})[0] for image in images]


def wait_for(running: Running, text: str) -> None:
    end = time.monotonic() + SECONDS
    while not any(text in line for line in running.lines):
        assert time.monotonic() < end, "".join(running.lines)
        time.sleep(0.02)
