"""How a run scales: what a million queries cost, part by part, and what does not grow with the number of sessions.

``python -m tests.benchmarks.scaling`` prints the last part of ``cluster/README.md``; ``--write`` replaces it. CPU
seconds are read from the processes themselves, so that they hold on a machine that does other work too; queries a
second do not.
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
from mifsim.server.backend import Job, ModelFile
from mifsim.server.client_specs import SHARDS_AT_A_TIME, shard_size, shards
from mifsim.server.environment import Counters
from mifsim.server.ray.backend import start_actors
from mifsim.server.ray.cluster import connect
from mifsim.server.ray.dispatch import dispatch
from mifsim.study import Study
from mifsim.victims import prepare_victim
from mifsim.victims.engine import engine_from_bytes
from tests.chaos.processes import below
from tests.chaos.stages import cluster

PAGE = Path(__file__).parents[2] / "cluster" / "README.md"
BEGIN, END = "<!-- scaling:begin -->\n", "<!-- scaling:end -->\n"
"""Around the report in the page."""
ACROSS = "2 hosts on 2 simulated nodes"
TICKS = os.sysconf("SC_CLK_TCK")
SESSIONS, QUERIES, AT_A_TIME = 2048, 20, 768
ROUNDS = 2
MANY, LOOKS = 49_152, 10
"""Sessions of two queries between two looks at the memory, and how many looks."""
SETTLE_SECONDS = 2.0
"""Before a look: objects are freed in the background."""
MILLION = 1_000_000


def study(sessions: int = SESSIONS, length: int = QUERIES, **server: Any) -> Study:
    """Honest sessions behind the paper's third setting, on real digits."""
    return Study.parse(
        {
            "name": "scaling",
            "server": {"sessions_per_host": AT_A_TIME, **server},
            "filters": [{"name": "paper 3", "t_ssim": 0.999, "t_hash": 0.001, "n_b": 10, "l_sp": 4}],
            "users": [{"user": "independent", "sessions": sessions, "length": length}],
        }
    )


@dataclass(frozen=True)
class Cost:
    """Of one arrangement: queries a second, and CPU seconds a million queries, by part."""

    name: str
    pace: float
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
    return total / TICKS


def titles(pids: list[int]) -> dict[int, str]:
    """Return the command lines of processes that are there."""
    found = {}
    for pid in pids:
        try:
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
    return found


def measure(name: str, what: Study, model: ModelFile, folder: Path) -> Cost:
    """Run a study on a Ray that is there, and return what it cost once its actors were warm."""
    with started(what, model, folder) as run_all:
        run_all(what)
        lines = titles(below(os.getpid()))
        groups = {
            "hosts": [pid for pid, line in lines.items() if "ray::SessionHost" in line],
            "model": [pid for pid, line in lines.items() if "ray::ModelActor" in line],
            "driver": [os.getpid()],
            "ray": [pid for pid, line in lines.items() if "raylet/raylet" in line or "gcs_server" in line],
        }
        before = {key: cpu_seconds(pids) for key, pids in groups.items()}
        paces, queries = [], 0
        for _ in range(ROUNDS):
            began = time.monotonic()
            done = run_all(what)
            paces.append(done / (time.monotonic() - began))
            queries += done
        spent = {key: (cpu_seconds(pids) - before[key]) / queries * MILLION for key, pids in groups.items()}
    return Cost(name, statistics.median(paces), **spent)


@contextmanager
def started(what: Study, model: ModelFile, folder: Path) -> Iterator[Any]:
    """Start the actors for a study; yield a function that runs all its sessions and returns the number of queries."""
    models, hosts, placed = start_actors(Job(what, folder, {}), model)
    told = Counters()

    def run_all(some: Study) -> int:
        nonlocal told
        before, last = told, Counters()

        def watch(done: Counters) -> None:
            nonlocal last
            last = Counters(queries=done.queries)

        dispatch(hosts, shards(some, 10), watch, SHARDS_AT_A_TIME, placed)
        told = last
        return last.queries - before.queries

    try:
        yield run_all
    finally:
        for actor in (*models.actors, *hosts):
            ray.kill(actor)


def store_bytes() -> int:
    """Return how much of the object store is in use."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(get_memory_info_reply(state).store_stats.object_store_bytes_used)


def memory(model: ModelFile, folder: Path) -> list[tuple[int, float, float]]:
    """Return sessions, the driver's resident MiB and the object store's MiB in use, after more and more sessions."""
    rows = []
    some = study(MANY, 2, hosts=2, sessions_per_host=1536)
    with started(some, model, folder) as run_all:
        for look in range(1, LOOKS + 1):
            run_all(some)
            time.sleep(SETTLE_SECONDS)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            rows.append((look * MANY, pages * resource.getpagesize() / 2**20, store_bytes() / 2**20))
    return rows


def specs_of_a_million() -> tuple[float, float]:
    """Return the seconds and the MiB of peak memory that the driver needs to cut a million sessions into shards."""
    import tracemalloc

    what = study(MILLION, 2, sessions_per_host=1536)
    began = time.process_time()
    _sizes(what, shards(what, 10), set())
    seconds = time.process_time() - began
    tracemalloc.start()
    for _ in zip(range(200), shards(what, 10), strict=False):
        pass
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return seconds, peak


def gradient_factor(model: ModelFile) -> float:
    """Return how much CPU a query with a gradient costs the model, as a multiple of one without."""
    engine = engine_from_bytes(model.content, (28, 28), 10, model.logits, 256)
    images = np.random.default_rng(0).random((256, 28, 28), dtype=np.float32)
    spent = []
    for wanted in (-1, 0):
        of = np.full(256, wanted, np.int32)
        engine.predict(images, of)
        began = time.process_time()
        for _ in range(40):
            engine.predict(images, of)
        spent.append(time.process_time() - began)
    return spent[1] / spent[0]


def bytes_a_million(folder: Path) -> float:
    """Return the MB of Parquet that a million queries leave."""
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    return size / (SESSIONS * QUERIES) * MILLION / 1e6


def page() -> str:
    """Measure everything; return the text."""
    base = study()
    victim = prepare_victim(load_data(base.data), base.victim)
    model = ModelFile(victim.model_bytes(), victim.logits)
    costs = []
    with tempfile.TemporaryDirectory(prefix="mifsim-scaling-") as name:
        folder = Path(name)
        connect(None)
        for hosts in (1, 2, 4):
            what = study(hosts=hosts)
            costs.append(measure(f"{hosts} host{'s' if hosts > 1 else ''}", what, model, folder / f"hosts-{hosts}"))
        two = study(hosts=2, model_replicas=2)
        costs.append(measure("2 hosts, 2 models", two, model, folder / "models"))
        autoscaled = memory(model, folder / "memory")
        written = bytes_a_million(folder / "hosts-1")
        ray.shutdown()
        for nodes in (2, 3):
            with cluster(num_cpus=1) as made:
                for _ in range(nodes - 1):
                    made.add_node(num_cpus=1)
                connect(made.address)
                title = ACROSS if nodes == 2 else f"2 hosts on {nodes} simulated nodes"
                costs.append(measure(title, study(hosts=2), model, folder / f"nodes-{nodes}"))
                if nodes == 2:
                    costs.append(measure(f"{title}, each with a model", two, model, folder / "nodes-models"))
                ray.shutdown()
    return text(costs, autoscaled, written, specs_of_a_million(), gradient_factor(model))


def text(
    costs: list[Cost],
    autoscaled: list[tuple[int, float, float]],
    written: float,
    cutting: tuple[float, float],
    gradient: float,
) -> str:
    """Return the report."""
    known, here = versions(), machine()
    rows = "\n".join(
        f"| {c.name} | {c.pace:,.0f} | {c.hosts:.1f} | {c.model:.1f} | {c.driver:.2f} | {c.ray:.1f} | {c.total:.1f} |"
        for c in costs
    )
    one = costs[0]
    across, near = (next(c for c in costs if c.name == name) for name in (ACROSS, f"{ACROSS}, each with a model"))
    grows = "\n".join(f"| {sessions:,} | {driver:.1f} | {store:.1f} |" for sessions, driver, store in autoscaled)
    cpus = here["cpus"]
    host_pace, model_pace = MILLION / one.hosts, MILLION / one.model
    shard = shard_size(study(sessions_per_host=1536))
    driver_pace = MILLION / max(one.driver, 1e-9)
    (early, early_mib, _), (late, late_mib, _) = autoscaled[1], autoscaled[-1]
    growth = (late_mib - early_mib) / (late - early) * MILLION
    return wrapped(f"""## Scaling

Made by `python -m tests.benchmarks.scaling --write`: {SESSIONS:,} honest sessions of {QUERIES} queries (28×28 digits,
LeNet-5, the paper's third setting), in shards of {shard_size(study())}, from seeds to Parquet, {ROUNDS} times after a
warm-up. Python {known["python"]}, ray {known["ray"]}, tensorflow {known["tensorflow"]}; {cpus} CPUs,
{here["memory_gib"]} GiB. CPU seconds are those that the processes themselves used; queries a second are those of a
machine that may have had other work.

### What a million queries cost

| arrangement | queries/s | hosts, CPU s | model, CPU s | driver, CPU s | Ray, CPU s | sum |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{rows}

"Ray" is the raylets and the controller. What bounds it here is the number of cores: {cpus} of them cannot give more
than {cpus * MILLION / one.total:,.0f} queries a second at the first line's cost, whatever the number of hosts,
and simulated nodes share them too. Those show what crossing nodes costs in CPU, not what a network adds: a copy of the
model on each of two nodes takes Ray's part from {across.ray:.1f} to {near.ray:.1f} CPU s, and its own from
{across.model:.1f} to {near.model:.1f}; what it spares beside is the network.

### What grows with the number of sessions

| sessions run by one driver | driver, resident MiB | object store in use, MiB |
| ---: | ---: | ---: |
{grows}

The object store holds what is under way, and no more. The driver grows by {growth:.0f} MiB a million sessions,
counted from the second line. It cuts a million sessions into shards of {shard} in {cutting[0]:.1f} CPU s with
{cutting[1]:.1f} MiB at most held for it: shards are made as hosts take them, {SHARDS_AT_A_TIME} a host at a
time. What a resumed run remembers of finished shards is a name each ({MILLION // shard:,} a million sessions). A
million queries leave {written:.0f} MB of Parquet.

### On paper: more nodes

From the first line, each part alone on cores of this kind:

* A host core makes {host_pace:,.0f} queries a second; a core of the model answers {model_pace:,.0f}. So k cores of a
  node for its copy of the model keep about {model_pace / host_pace:.1f} × k hosts busy. A copy takes up one CPU on
  paper; TensorFlow computes in as many threads as the node has cores.
* With enough copies of the model, a million queries cost {one.total / 3600:.4f} core hours wherever they run, and N
  cores take {one.total:.0f} / N seconds for them. Across nodes, take a sum of the lines with simulated nodes.
* The driver hands out {driver_pace:,.0f} queries' worth of shards a second before it is the bound, which is what
  about {driver_pace * one.total / MILLION:,.0f} cores ask.
* A query sends 3,136 bytes to the model and 40 back: {host_pace * 3176 / 1e6:.0f} MB a second for each host core
  whose model is on another node: why each node of 4 CPUs or more has a copy of its own unless a study says otherwise.

Its limits: a query that wants a gradient costs the model {gradient:.1f} times as much; larger images cost hosts and
model more; a GPU changes the model's part alone; an object store adds a round trip for each file ({shard} sessions
share three or four). Nothing here was measured on more than one machine.
""")


def wrapped(page: str) -> str:
    """Fill the paragraphs and list items of a page anew: numbers have changed their lengths."""
    blocks = []
    for block in page.strip().split("\n\n"):
        if block.startswith(("#", "|")):
            blocks.append(block)
            continue
        items = [" ".join(item.split()) for item in re.split(r"^\* ", block, flags=re.MULTILINE) if item]
        mark = "* " if block.startswith("* ") else ""
        blocks.append("\n".join(textwrap.fill(mark + one, 118, subsequent_indent=" " * len(mark)) for one in items))
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    """Print the report, or put it into its place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace it in cluster/README.md")
    options = parser.parse_args()
    made = page()
    if options.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + made + END + rest.partition(END)[2], encoding="utf-8")
        print(f"wrote {PAGE}")
    else:
        print(made, end="")


if __name__ == "__main__":
    main()
