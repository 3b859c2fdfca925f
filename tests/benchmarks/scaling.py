"""How a run scales: the CPU cost of a million queries, by part, and the memory as the number of sessions grows.

``python -m tests.benchmarks.scaling`` prints the last section of ``cluster/README.md``; ``--write`` replaces it. CPU
seconds are read from the processes themselves, so other work on the machine hardly changes them; it does change the
queries per second.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from mifsim.data import load_data
from mifsim.run.folder import machine, versions
from mifsim.run.sessions import _sizes
from mifsim.server.backend import Job
from mifsim.server.client_specs import SHARDS_AT_A_TIME, shard_size, shards
from mifsim.server.environment import Counters
from mifsim.server.ray.backend import start_actors
from mifsim.server.ray.cluster import connect
from mifsim.server.ray.dispatch import dispatch
from mifsim.study import Study
from mifsim.victims import ModelSource, prepare_victim
from tests.chaos.processes import descendants
from tests.chaos.setups import cluster

README = Path(__file__).parents[2] / "cluster" / "README.md"
BEGIN, END = "<!-- scaling:begin -->\n", "<!-- scaling:end -->\n"
"""Markers around the report in the file."""
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


def measure_all() -> str:
    """Measure everything; return the report."""
    base = make_study()
    victim = prepare_victim(load_data(base.data), base.victim)
    model = victim.source()
    costs = []
    with tempfile.TemporaryDirectory(prefix="mifsim-scaling-") as name:
        folder = Path(name)
        connect(None)
        for hosts in (1, 2, 4):
            study = make_study(hosts=hosts)
            costs.append(measure(f"{hosts} host{'s' if hosts > 1 else ''}", study, model, folder / f"hosts-{hosts}"))
        two_replicas = make_study(hosts=2, model_replicas=2)
        costs.append(measure("2 hosts, 2 models", two_replicas, model, folder / "models"))
        memory_rows = memory(model, folder / "memory")
        parquet_mb = megabytes_per_million(folder / "hosts-1")
        ray.shutdown()
        for nodes in (2, 3):
            with cluster(num_cpus=1) as ray_cluster:
                for _ in range(nodes - 1):
                    ray_cluster.add_node(num_cpus=1)
                connect(ray_cluster.address)
                title = TWO_NODES if nodes == 2 else f"2 hosts on {nodes} simulated nodes"
                costs.append(measure(title, make_study(hosts=2), model, folder / f"nodes-{nodes}"))
                if nodes == 2:
                    costs.append(measure(f"{title}, each with a model", two_replicas, model, folder / "nodes-models"))
                ray.shutdown()
    return render(costs, memory_rows, parquet_mb, cost_of_splitting(), gradient_factor(model))


def render(
    costs: list[Cost],
    memory_rows: list[tuple[int, float, float]],
    parquet_mb: float,
    splitting: tuple[float, float],
    gradient: float,
) -> str:
    """Return the report."""
    libraries, hardware = versions(), machine()
    rows = "\n".join(
        f"| {c.name} | {c.rate:,.0f} | {c.hosts:.1f} | {c.model:.1f} | {c.driver:.2f} | {c.ray:.1f} | {c.total:.1f} |"
        for c in costs
    )
    single_host = costs[0]
    across, with_replicas = (
        next(c for c in costs if c.name == name) for name in (TWO_NODES, f"{TWO_NODES}, each with a model")
    )
    memory_table = "\n".join(
        f"| {sessions:,} | {driver:.1f} | {store:.1f} |" for sessions, driver, store in memory_rows
    )
    cpus = hardware["cpus"]
    host_rate, model_rate = MILLION / single_host.hosts, MILLION / single_host.model
    shard = shard_size(make_study(sessions_per_host=1536))
    driver_rate = MILLION / max(single_host.driver, 1e-9)
    (early, early_mib, _), (late, late_mib, _) = memory_rows[1], memory_rows[-1]
    growth = (late_mib - early_mib) / (late - early) * MILLION
    return wrap(f"""## Scaling

`python -m tests.benchmarks.scaling --write` writes this section. It runs {SESSIONS:,} honest sessions of {QUERIES}
queries (28×28 digits, LeNet-5, the paper's third configuration), in shards of {shard_size(make_study())}, from seeds to
Parquet, {ROUNDS} times after a warm-up. Python {libraries["python"]}, ray {libraries["ray"]}, tensorflow
{libraries["tensorflow"]}; {cpus} CPUs, {hardware["memory_gib"]} GiB. CPU seconds are those of the processes themselves;
queries per second are those of a machine that may have done other work.

### The cost of a million queries

| arrangement | queries/s | hosts, CPU s | model, CPU s | driver, CPU s | Ray, CPU s | sum |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{rows}

"Ray" is the raylets and the cluster's controller. The number of cores limits the throughput here: {cpus} cores cannot
answer more than {cpus * MILLION / single_host.total:,.0f} queries per second at the cost in the first row, whatever the
number of hosts, and simulated nodes share these cores. The rows with simulated nodes show the CPU cost of communication
between nodes, but not the effect of a network: a replica of the model on each of two nodes changes the CPU seconds of
Ray from {across.ray:.1f} to {with_replicas.ray:.1f}, and those of the model from {across.model:.1f} to
{with_replicas.model:.1f}. It also saves network traffic, which these numbers do not include.

### Memory and the number of sessions

| sessions run by one driver | driver, resident MiB | object store in use, MiB |
| ---: | ---: | ---: |
{memory_table}

The object store contains only the data in flight. The driver grows by {growth:.0f} MiB per million sessions, counted
from the second row. It divides a million sessions into shards of {shard} in {splitting[0]:.1f} CPU s with at most
{splitting[1]:.1f} MiB of memory: shards are created when hosts become free, {SHARDS_AT_A_TIME} per host at a time. A
resumed run remembers one name per finished shard ({MILLION // shard:,} per million sessions). A million queries produce
{parquet_mb:.0f} MB of Parquet.

### Estimates for more nodes

From the first row, with each part alone on cores of this kind:

* One core of a host sends {host_rate:,.0f} queries per second; one core of the model answers {model_rate:,.0f}.
  Therefore a replica of the model on k cores of a node keeps about {model_rate / host_rate:.1f} × k hosts busy. Ray
  reserves one CPU for a replica, but TensorFlow uses as many threads as the node has cores.
* With enough replicas of the model, a million queries cost {single_host.total / 3600:.4f} core hours wherever they run,
  and N cores take {single_host.total:.0f} / N seconds for them. For several nodes, use a sum from the rows with
  simulated nodes.
* The driver can assign shards with {driver_rate:,.0f} queries per second, which is as much as about
  {driver_rate * single_host.total / MILLION:,.0f} cores run.
* A query sends 3,136 bytes to the model and 40 back: {host_rate * 3176 / 1e6:.0f} MB per second for each core of a host
  whose model is on another node. Therefore each node with at least 4 CPUs has its own replica, unless the study sets
  the number of replicas.

Limitations: a query with a gradient costs the model {gradient:.1f} times as much; larger images cost more on the hosts
and in the model; a GPU changes only the model's part; an object store adds a round trip for each file ({shard} sessions
share three or four files). Nothing here was measured on more than one machine.
""")


def wrap(page: str) -> str:
    """Fill the paragraphs and list items of a page again, because the lengths of the numbers vary."""
    blocks = []
    for block in page.strip().split("\n\n"):
        if block.startswith(("#", "|")):
            blocks.append(block)
            continue
        items = [" ".join(item.split()) for item in re.split(r"^\* ", block, flags=re.MULTILINE) if item]
        bullet = "* " if block.startswith("* ") else ""
        blocks.append(
            "\n".join(textwrap.fill(bullet + item, 118, subsequent_indent=" " * len(bullet)) for item in items)
        )
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    """Print the report, or write it to its place in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace it in cluster/README.md")
    options = parser.parse_args()
    report = measure_all()
    if options.write:
        before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
        README.write_text(before + BEGIN + report + END + rest.partition(END)[2], encoding="utf-8")
        print(f"wrote {README}")
    else:
        print(report, end="")


if __name__ == "__main__":
    main()
