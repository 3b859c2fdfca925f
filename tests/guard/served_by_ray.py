"""A guard on Ray Serve for tests: its processes, its ledger, and clients of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from redis import Redis

from mifsim.guard.config import GuardConfig
from mifsim.guard.identity import Identifier
from mifsim.guard.message import Request
from mifsim.guard.serve_config import serve_config
from tests.chaos.processes import descendants, kill, with_title
from tests.guard.guards import SHAPE, request_for
from tests.guard.redis_servers import free_port

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120.0
CPUS = 0.1
"""Of each replica: more of them than the machine has processors must be able to start."""


_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # on a busy machine, it is killed after 5 s, again and again
}


class ServedByRay:
    """A cluster with a guard.

    Parameters
    ----------
    folder : Path
        With a ``filter.toml``.
    redis, model : str
        URLs of the ledger and the model server.

    Attributes
    ----------
    port : int
        Of Serve's proxy.
    document : dict
        The deployed configuration.
    """

    def __init__(self, folder: Path, redis: str, model: str, **tables: Any) -> None:
        self.port, self._folder = free_port(), folder
        self._redis = Redis.from_url(redis)
        self.settings = GuardConfig.parse(
            {
                "filter": str(folder / "filter.toml"),
                "upstream": {"url": model, "unjudged": ["GET /v1/models/m"]},
                "identity": {"source": "header:x-user", "key_file": str(folder / "key")},
                "ledger": {"url": redis},
                "listen": {"port": self.port, "workers": 2, "grace": 5.0},
                **tables,
            }
        )
        self.document = yaml.safe_load(serve_config(self.settings, alone=False))
        env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.guard.serve_driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "driver.log").open("w"),
            env={**env, "HOME": str(folder), "PYTHONPATH": str(ROOT), **_ENVIRONMENT},
            text=True,
        )
        self.deploy()

    def deploy(self, guards: int = 2, **user_config: Any) -> None:
        """Deploy the configuration with another number of guard replicas, or other settings."""
        for deployment in self.document["applications"][0]["deployments"]:
            deployment["ray_actor_options"] = {"num_cpus": CPUS}
            deployment["user_config"] = {**deployment["user_config"], **user_config}
            if deployment["name"] == "Guard":
                deployment["num_replicas"] = guards
        path = self._folder / "serve.yaml"
        path.write_text(yaml.safe_dump(self.document))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line == "deployed\n":
                return
        raise AssertionError((self._folder / "driver.log").read_text()[-3000:])

    def stop(self) -> None:
        """End all processes."""
        pids = [self.process.pid, *self.processes()]
        kill(pids[:1])
        kill(pids[1:])
        self.process.wait()

    def processes(self, title: str = "") -> list[int]:
        """Return the processes of the cluster whose command line contains `title`."""
        found = descendants(self.process.pid)
        return with_title(found, title) if title else found

    def send(self, request: Request, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        """Send a request, and return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            fields = {**dict(request.headers), **(headers or {})}
            connection.request(request.method, request.target, request.body or None, fields)
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def statuses(self, images: list[Any], user: str, headers: dict[str, str] | None = None) -> list[int]:
        """Send images one after the other, and return the statuses."""
        return [self.send(request_for(image, user), headers)[0] for image in images]

    def stored(self, user: str) -> dict[str, Any]:
        """Return what the ledger has of a client: owner, number of queries, counts."""
        identity = self.settings.identity
        key = bytes.fromhex(Path(identity.key_file).read_text().strip())
        client = Identifier(identity, key).client(request_for(np.zeros(SHAPE, np.float32), user))
        found = self._redis.hgetall(f"mifsim:guard:client:{client.hex()}")
        row = {name.decode(): value.decode() for name, value in found.items()}  # type: ignore[union-attr]
        return {"owner": row["o"], "queries": int(row["q"]), "count": json.loads(row["c"])["count"]} if row else {}


def until(condition: Callable[[], Any]) -> Any:
    """Return the first value of `condition` that is true."""
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value
