"""Where a disturbed run takes place: on a Ray of its own, on two nodes, on a small disk, with a small object store."""

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

from tests.chaos.processes import below, titled

QUICK_FAIL_OVER = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 200,
    "health_check_failure_threshold": 3,
    "health_check_timeout_ms": 500,
}
"""A dead node is known as such within a second or two; by Ray's defaults within about 16."""
MIB = 2**20
SMALL_STORE_BYTES = 80 * MIB
DISK_BYTES = 16 * MIB


@dataclass
class Stage:
    """What a fault finds when it comes.

    Attributes
    ----------
    run : Path
        The run folder.
    arguments : tuple of str
        Of mifsim, beside the command's own.
    driver : int
        Process of the driver, once it is there.
    raylets : tuple of int
        Of the cluster, where it is not the driver's own: workers are below them.
    recordings : Path
        Where a calibration records its sessions.
    spill : Path or None
        Where the object store spills to.
    """

    run: Path
    arguments: tuple[str, ...] = ()
    driver: int = 0
    raylets: tuple[int, ...] = ()
    recordings: Path = Path("none")
    spill: Path | None = None

    def half_written(self) -> list[Path]:
        """Return the files of the run, or of a recording, that are not in their places yet."""
        return [*self.run.glob("*/.*.partial"), *self.recordings.glob("*/*/*/.*.partial")]

    def done(self) -> int:
        """Return how far the run is, in finished shards of its recording and its own, and in finished trials."""
        shards = [*self.run.glob("sessions/*.parquet"), *self.recordings.glob("*/*/sessions/*.parquet")]
        lines, table = self.run / "trials" / "journal.jsonl", self.run / "trials" / "trials.parquet"
        if table.is_file():
            return len(shards) + int(pq.read_metadata(table).num_rows)
        try:
            return len(shards) + lines.read_bytes().count(b"\n")
        except FileNotFoundError:  # there is none yet, or it has become a table this moment
            return len(shards)

    def spilled(self) -> list[Path]:
        """Return the files that hold spilled objects."""
        return [] if self.spill is None else [path for path in self.spill.rglob("*") if path.is_file()]

    def workers(self, title: str) -> list[int]:
        """Return the processes of Ray's workers with a title, such as ``ray::SessionHost``."""
        return titled([pid for root in (self.raylets or (self.driver,)) for pid in below(root)], title)


@contextmanager
def own_ray(folder: Path) -> Iterator[Stage]:
    """A Ray that the driver starts and that ends with it."""
    yield Stage(folder / "run")


@contextmanager
def two_nodes(folder: Path) -> Iterator[Stage]:
    """A cluster that outlives the driver, of a head and a second node with two CPUs each."""
    with cluster(num_cpus=2, _system_config=QUICK_FAIL_OVER) as made:
        second = made.add_node(num_cpus=2)
        raylets = tuple(_raylet(node) for node in (made.head_node, second))
        yield Stage(folder / "run", ("--address", made.address), raylets=raylets)


@contextmanager
def small_store(folder: Path) -> Iterator[Stage]:
    """A cluster whose object store is smaller than what is under way, so that Ray has to spill."""
    spill = folder / "spill"
    spill.mkdir()
    small = {"num_cpus": 2, "object_store_memory": SMALL_STORE_BYTES, "object_spilling_directory": str(spill)}
    with cluster(**small) as made:
        arguments = ("--address", made.address)
        yield Stage(folder / "run", arguments, raylets=(_raylet(made.head_node),), spill=spill)


@contextmanager
def small_disk(folder: Path) -> Iterator[Stage]:
    """A disk of its own for the run folder, small enough to be filled.

    Raises
    ------
    PermissionError
        Where nothing may be mounted: this takes root.
    """
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        raise PermissionError(f"{disk}: {mounted.stderr.strip()}")
    try:
        yield Stage(disk / "run")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


Place = Callable[[Path], AbstractContextManager[Stage]]


@contextmanager
def cluster(**head: Any) -> Iterator[Any]:
    """A Ray cluster below this process, of simulated nodes; it is begun with its head."""
    from ray.cluster_utils import Cluster

    with _own_address_file():
        made = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **head})
        try:
            yield made
        finally:
            made.shutdown()


@contextmanager
def _own_address_file() -> Iterator[None]:
    """Let this cluster not be taken for the machine's: others look for theirs by the same file."""
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
