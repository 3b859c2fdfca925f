"""The text of the scaling report."""

from __future__ import annotations

import re
import textwrap

from mifsim.run.folder import machine, versions
from mifsim.server.client_specs import SHARDS_AT_A_TIME, shard_size
from tests.benchmarks.scaling_measures import MILLION, QUERIES, ROUNDS, SESSIONS, TWO_NODES, Cost, make_study


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
