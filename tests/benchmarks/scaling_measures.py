"""The cost of a run on Ray by its parts, its memory, and other figures of the scaling report."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from mifsim.run.sessions import _sizes
from mifsim.server.backend import Job
from mifsim.server.client_specs import SHARDS_AT_A_TIME, shards
from mifsim.server.environment import Counters
from mifsim.server.ray.backend import start_actors
from mifsim.server.ray.dispatch import dispatch
from mifsim.study import Study
from mifsim.victims import ModelSource
from tests.chaos.processes import descendants

TWO_NODES = "2 hosts on 2 simulated nodes"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SESSIONS, QUERIES, SESSIONS_PER_HOST = 2048, 20, 768
ROUNDS = 2
MEMORY_SESSIONS, MEMORY_SAMPLES = 49_152, 10
"""Number of sessions, of two queries each, between two memory samples; number of samples."""
SETTLE_SECONDS = 2.0
"""Wait before a memory sample: Ray frees objects in the background."""
MILLION = 1_000_000


def make_study(sessions: int = SESSIONS, length: int = QUERIES, **server: Any) -> Study:
    """Return a study of honest sessions with the paper's third configuration, on real digits."""
    return Study.parse(
        {
            "name": "scaling",
            "server": {"sessions_per_host": SESSIONS_PER_HOST, **server},
            "filters": [{"name": "paper 3", "t_ssim": 0.999, "t_hash": 0.001, "n_b": 10, "l_sp": 4}],
            "users": [{"user": "independent", "sessions": sessions, "length": length}],
        }
    )


@dataclass(frozen=True)
class Cost:
    """The rate of one arrangement in queries per second, and the CPU seconds of each part per million queries."""

    name: str
    rate: float
    hosts: float
    model: float
    driver: float
    ray: float

    @property
    def total(self) -> float:
        return self.hosts + self.model + self.driver + self.ray


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time that processes have used so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_SECOND


def command_lines(pids: list[int]) -> dict[int, str]:
    """Return the command lines of the processes that still exist."""
    lines = {}
    for pid in pids:
        try:
            lines[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
    return lines


def measure(name: str, study: Study, model: ModelSource, folder: Path) -> Cost:
    """Run a study on the connected Ray cluster; return its cost after a warm-up."""
    with started(study, model, folder) as run_all:
        run_all(study)
        titles = command_lines(descendants(os.getpid()))
        groups = {
            "hosts": [pid for pid, title in titles.items() if "ray::SessionHost" in title],
            "model": [pid for pid, title in titles.items() if "ray::ModelActor" in title],
            "driver": [os.getpid()],
            "ray": [pid for pid, title in titles.items() if "raylet/raylet" in title or "gcs_server" in title],
        }
        before = {key: cpu_seconds(pids) for key, pids in groups.items()}
        rates, queries = [], 0
        for _ in range(ROUNDS):
            started_at = time.monotonic()
            answered = run_all(study)
            rates.append(answered / (time.monotonic() - started_at))
            queries += answered
        spent = {key: (cpu_seconds(pids) - before[key]) / queries * MILLION for key, pids in groups.items()}
    return Cost(name, statistics.median(rates), **spent)


@contextmanager
def started(study: Study, model: ModelSource, folder: Path) -> Iterator[Any]:
    """Start the actors for a study; yield a function that runs all its sessions and returns the number of queries."""
    models, hosts, placement = start_actors(Job(study, folder, {}), model)
    counted = Counters()

    def run_all(study: Study) -> int:
        nonlocal counted
        before, last = counted, Counters()

        def on_progress(done: Counters) -> None:
            nonlocal last
            last = Counters(queries=done.queries)

        dispatch(hosts, shards(study, 10), on_progress, SHARDS_AT_A_TIME, placement)
        counted = last
        return last.queries - before.queries

    try:
        yield run_all
    finally:
        for actor in (*models.actors, *hosts):
            ray.kill(actor)


def store_bytes() -> int:
    """Return the number of bytes in use in the object store."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(get_memory_info_reply(state).store_stats.object_store_bytes_used)


def memory(model: ModelSource, folder: Path) -> list[tuple[int, float, float]]:
    """Return rows of the number of sessions so far, the driver's resident MiB, and the object store's MiB in use."""
    rows = []
    study = make_study(MEMORY_SESSIONS, 2, hosts=2, sessions_per_host=1536)
    with started(study, model, folder) as run_all:
        for sample in range(1, MEMORY_SAMPLES + 1):
            run_all(study)
            time.sleep(SETTLE_SECONDS)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            rows.append((sample * MEMORY_SESSIONS, pages * resource.getpagesize() / 2**20, store_bytes() / 2**20))
    return rows


def cost_of_splitting() -> tuple[float, float]:
    """Return the CPU seconds and the peak MiB that the driver needs to divide a million sessions into shards."""
    import tracemalloc

    study = make_study(MILLION, 2, sessions_per_host=1536)
    started_at = time.process_time()
    _sizes(study, shards(study, 10), set())
    seconds = time.process_time() - started_at
    tracemalloc.start()
    for _ in zip(range(200), shards(study, 10), strict=False):
        pass
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return seconds, peak


def gradient_factor(model: ModelSource) -> float:
    """Return the model's CPU cost of a query with a gradient, divided by that of a query without one."""
    engine = model.engine((28, 28), 10, 256)
    images = np.random.default_rng(0).random((256, 28, 28), dtype=np.float32)
    spent = []
    for label in (-1, 0):  # -1: no gradient
        gradient_of = np.full(256, label, np.int32)
        engine.predict(images, gradient_of)
        started_at = time.process_time()
        for _ in range(40):
            engine.predict(images, gradient_of)
        spent.append(time.process_time() - started_at)
    return spent[1] / spent[0]


def megabytes_per_million(folder: Path) -> float:
    """Return the MB of Parquet per million queries, from the files of one arrangement."""
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    return size / (SESSIONS * QUERIES) * MILLION / 1e6
