"""The inference server as a process on loopback that tests start, stop and give faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("inference_server.py")


class Service:
    """A running server process."""

    def __init__(self, *arguments: str, token: str = "") -> None:
        self.arguments = arguments
        self._token = token
        self.port = 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(PROGRAM), *self.arguments, "--port", str(self.port)]
        environment = os.environ | {"SERVICE_TOKEN": self._token}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def url(self, protocol: str) -> str:
        version = "v1" if protocol == "tf-serving" else "v2"
        return f"http://127.0.0.1:{self.port}/{version}/models/digits"

    def faults(self, *faults: dict[str, Any]) -> None:
        """Set the faults of the next inference requests, one for each, and reset the counts."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/control", json.dumps(faults).encode())
        urllib.request.urlopen(request).read()

    def counts(self) -> dict[str, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/control") as answer:
            found: dict[str, int] = json.load(answer)
        return found


@contextmanager
def service(shape: tuple[int, ...], classes: int, *arguments: str, token: str = "") -> Iterator[Service]:
    """Start a server process, and end it at the end."""
    running = Service("--shape", *map(str, shape), "--classes", str(classes), *arguments, token=token)
    try:
        yield running
    finally:
        running.stop()
