"""How a run scales: the CPU cost of a million queries, by part, and the memory as the number of sessions grows.

``python -m tests.benchmarks.scaling`` prints the last section of ``cluster/README.md``; ``--write`` replaces it. CPU
seconds are read from the processes themselves, so other work on the machine hardly changes them; it does change the
queries per second.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import ray

from mifsim.data import load_data
from mifsim.server.ray.cluster import connect
from mifsim.victims import prepare_victim
from tests.benchmarks.scaling_measures import (
    TWO_NODES,
    cost_of_splitting,
    gradient_factor,
    make_study,
    measure,
    megabytes_per_million,
    memory,
)
from tests.benchmarks.scaling_report import render
from tests.chaos.setups import cluster

README = Path(__file__).parents[2] / "cluster" / "README.md"
BEGIN, END = "<!-- scaling:begin -->\n", "<!-- scaling:end -->\n"
"""Markers around the report in the file."""


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
