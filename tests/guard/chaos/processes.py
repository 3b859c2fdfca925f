"""Rounds of faults with real processes: `mifsim guard` with its ledger in a file, killed while clients use it.

``python -m tests.guard.chaos.processes --rounds 5`` kills the guard twice in each round. With ``--workers 2`` it
kills one worker at a time, which the guard must replace. A client sends a request again until it is answered.
The properties are those of `tests.guard.chaos.rounds`, as far as they can be seen from outside.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mifsim.defense import FilterConfig
from mifsim.guard.message import Request
from tests.chaos.processes import descendants
from tests.guard.chaos.rounds import config_of
from tests.guard.chaos.traffic import Client, most_answers, repeated, traffic
from tests.guard.guard_processes import SECONDS, Running, guard, model_server, ready
from tests.guard.guards import request_for, write_filter

KILLS = 2
RETRIED = (500, 502, 503, 504)
FAULTS = ("close", "error", "close")
"""What the model server does with some requests."""


class Round:
    """A guard, a model server, and the clients.

    Parameters
    ----------
    seed : int
    folder : Path
    model : Running
    workers : int
    """

    def __init__(self, seed: int, folder: Path, model: Running, workers: int) -> None:
        self._rng = random.Random(f"processes {seed}")
        self._config: FilterConfig = config_of(seed)
        self._clients = traffic(seed)
        self._folder, self._model = folder, model
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._options = ["--port", str(port), *(["--workers", str(workers)] if workers > 1 else [])]
        self._workers = workers
        self._port = port
        self._answered: Counter[str] = Counter()
        self._blocked: set[str] = set()
        self._done = threading.Event()
        write_filter(folder, self._config, longest=100_000)

    def run(self) -> None:
        """Send the traffic, kill processes meanwhile, and compare.

        Raises
        ------
        AssertionError
            If a property does not hold.
        """
        running = guard(self._folder, self._model, *self._options)
        try:
            with ThreadPoolExecutor(len(self._clients)) as pool:
                uses = [pool.submit(self._use, client) for client in self._clients]
                for _ in range(KILLS):
                    time.sleep(self._rng.uniform(0.05, 0.6))
                    faults = json.dumps(self._rng.sample(FAULTS, 2)).encode()
                    self._model.send(Request("POST", "/faults", body=faults))
                    running = self._kill(running)
                for use in uses:
                    use.result()
        finally:
            running.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(Exception):
                running.process.wait(SECONDS)
            running.kill()
        for client in self._clients:
            self._check(client)
        self._check_ledger()

    def _kill(self, running: Running) -> Running:
        workers = descendants(running.process.pid) if self._workers > 1 else []
        if workers:
            os.kill(self._rng.choice(workers), signal.SIGKILL)
            ready(running)
            return running
        running.kill()
        return guard(self._folder, self._model, *self._options)

    def _use(self, client: Client) -> None:
        for item in client.items:
            status = self._send(client.name, request_for(item.images, client.name, **_key(item.key)))
            if status == 403:
                self._blocked.add(client.name)
                return
            assert status == 200, f"{client.name}: {status}"
            self._answered[client.name] += len(item.images)

    def _send(self, name: str, request: Request) -> int:
        end = time.monotonic() + SECONDS
        target = Running.__new__(Running)
        target.port = self._port
        while time.monotonic() < end:
            with contextlib.suppress(OSError, EOFError):
                status = target.send(request)[0]
                if status not in RETRIED:
                    return status
            time.sleep(0.02)
        raise AssertionError(f"{name}: no answer")

    def _check(self, client: Client) -> None:
        name, answered = client.name, self._answered[client.name]
        most = most_answers(self._config, client, KILLS)
        assert answered <= most, f"{name}: {answered} answers; at most {most}"
        if repeated(self._config, client) == 0 and most_answers(self._config, client, 0) == len(client.images):
            assert name not in self._blocked, f"{name} is blocked only by faults"
        assert name in self._blocked or answered == len(client.images)

    def _check_ledger(self) -> None:
        with contextlib.closing(sqlite3.connect(self._folder / "guard.db")) as database:
            rows = database.execute("SELECT queries, blocked FROM clients").fetchall()
        assert len(rows) == len(self._clients)
        assert sum(blocked > 0 for _, blocked in rows) == len(self._blocked)
        assert sum(queries for queries, _ in rows) >= sum(self._answered.values())


def _key(key: str | None) -> dict[str, str]:
    return {} if key is None else {"idempotency_key": key}


def main() -> None:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="needs a guard that has this option")
    options = parser.parse_args()
    failed = 0
    model = model_server()
    try:
        for seed in range(options.seed, options.seed + options.rounds):
            with tempfile.TemporaryDirectory(prefix="mifsim-guard-chaos-") as folder:
                try:
                    Round(seed, Path(folder), model, options.workers).run()
                    print(f"round {seed}: passed", flush=True)
                except AssertionError as error:
                    failed += 1
                    print(f"round {seed}: FAILED: {error}", flush=True)
    finally:
        model.kill()
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
