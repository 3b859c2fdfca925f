"""Environments for runs with faults: a local Ray, two nodes, a small disk, a small object store."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.chaos.processes import descendants, with_title

QUICK_FAIL_OVER = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 200,
    "health_check_failure_threshold": 3,
    "health_check_timeout_ms": 500,
}
"""Detects a dead node within about 2 seconds, instead of about 16 with Ray's defaults."""
MIB = 2**20
SMALL_STORE_BYTES = 80 * MIB
DISK_BYTES = 16 * MIB


@dataclass
class Target:
    """A run into which a fault is injected.

    Attributes
    ----------
    run : Path
        The run folder.
    arguments : tuple of str
        Additional arguments of mifsim.
    driver : int
        Process id of the driver; 0 before it starts.
    raylets : tuple of int
        Process ids of the cluster's raylets, whose descendants are the workers; empty if the driver starts Ray.
    recordings : Path
        Folder in which a calibration records its sessions.
    spill : Path or None
        Folder to which the object store spills objects; None for the other environments.
    """

    run: Path
    arguments: tuple[str, ...] = ()
    driver: int = 0
    raylets: tuple[int, ...] = ()
    recordings: Path = Path("none")
    spill: Path | None = None

    def partial_files(self) -> list[Path]:
        """Return the files of the run, or of a recording, that are being written."""
        return [*self.run.glob("*/.*.partial"), *self.recordings.glob("*/*/*/.*.partial")]

    def progress(self) -> int:
        """Return the number of finished shards (of the run and its recordings) plus the number of finished trials."""
        shards = [*self.run.glob("sessions/*.parquet"), *self.recordings.glob("*/*/sessions/*.parquet")]
        lines, table = self.run / "trials" / "journal.jsonl", self.run / "trials" / "trials.parquet"
        if table.is_file():
            return len(shards) + int(pq.read_metadata(table).num_rows)
        try:
            return len(shards) + lines.read_bytes().count(b"\n")
        except FileNotFoundError:  # not written yet, or just replaced by the table
            return len(shards)

    def spilled(self) -> list[Path]:
        """Return the files of spilled objects."""
        return [] if self.spill is None else [path for path in self.spill.rglob("*") if path.is_file()]

    def workers(self, title: str) -> list[int]:
        """Return the process ids of Ray's workers with a title, such as ``ray::SessionHost``."""
        return with_title([pid for root in (self.raylets or (self.driver,)) for pid in descendants(root)], title)


@contextmanager
def local_ray(folder: Path) -> Iterator[Target]:
    """Yield a run with a local Ray, which the driver starts and which ends with it."""
    yield Target(folder / "run")


@contextmanager
def two_nodes(folder: Path) -> Iterator[Target]:
    """Yield a run on a cluster that outlives the driver, with a head and a second node of two CPUs each."""
    with cluster(num_cpus=2, _system_config=QUICK_FAIL_OVER) as ray_cluster:
        second = ray_cluster.add_node(num_cpus=2)
        raylets = tuple(_raylet(node) for node in (ray_cluster.head_node, second))
        yield Target(folder / "run", ("--address", ray_cluster.address), raylets=raylets)


@contextmanager
def small_store(folder: Path) -> Iterator[Target]:
    """Yield a run on a cluster whose object store is smaller than the batches in flight, so that Ray must spill."""
    spill = folder / "spill"
    spill.mkdir()
    options = {"num_cpus": 2, "object_store_memory": SMALL_STORE_BYTES, "object_spilling_directory": str(spill)}
    with cluster(**options) as ray_cluster:
        arguments = ("--address", ray_cluster.address)
        yield Target(folder / "run", arguments, raylets=(_raylet(ray_cluster.head_node),), spill=spill)


@contextmanager
def small_disk(folder: Path) -> Iterator[Target]:
    """Yield a run whose folder is on a separate disk that is small enough to fill.

    Raises
    ------
    PermissionError
        If the process may not mount a disk, which needs root.
    """
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        raise PermissionError(f"{disk}: {mounted.stderr.strip()}")
    try:
        yield Target(disk / "run")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


Setup = Callable[[Path], AbstractContextManager[Target]]


@contextmanager
def cluster(**head: Any) -> Iterator[Any]:
    """Yield a Ray cluster of simulated nodes, started by this process with its head only."""
    from ray.cluster_utils import Cluster

    with _separate_address_file():
        ray_cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **head})
        try:
            yield ray_cluster
        finally:
            ray_cluster.shutdown()


@contextmanager
def _separate_address_file() -> Iterator[None]:
    """Keep other programs on this machine from finding the cluster through Ray's default address file."""
    before = os.environ.get("RAY_TMPDIR")
    with tempfile.TemporaryDirectory(prefix="mifsim-ray-", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_TMPDIR"] = folder
        try:
            yield
        finally:
            del os.environ["RAY_TMPDIR"]
            if before is not None:
                os.environ["RAY_TMPDIR"] = before


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)
