"""Compare a run on this machine with a job on a cluster of three nodes that loses a worker: the rows must be equal.

``python -m tests.cluster.namespaces`` runs the demo's study on nodes in network namespaces (``make cluster-test``;
needs root and iproute2). ``--study small`` runs a study that takes seconds, as `test_jobs` does.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pandas as pd
import pyarrow.parquet as pq
import tomli_w

from mifsim.defense import FilterConfig
from mifsim.tables.records import read_table
from tests.chaos.processes import with_title
from tests.cluster.nodes import ROOT, Cluster, in_namespaces, why_no_namespaces
from tests.tuning.studies import tiny_study

TIMEOUT_SECONDS = 3600.0
SESSION_TABLES = ("sessions", "queries", "snapshots", "leakage")
SINGLE_FILE_TABLES = ("pareto", "certification")
TIMING_COLUMNS = ["elapsed_seconds"]
"""Columns that may differ: measured wall-clock times."""


def tune_locally(study: str, run: Path, cache: Path) -> None:
    """Calibrate on this machine, with an empty cache."""
    command = [sys.executable, "-m", "mifsim", "tune", study, "--out", str(run)]
    env = {**os.environ, "MIFSIM_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=env, check=True, cwd=run.parent)


def submit(cluster: Cluster, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start `mifsim submit` on the head, which needs no tunnel to the job API."""
    command, env = cluster.on(
        cluster.head, [sys.executable, "-m", "mifsim", "submit", *arguments, "--address", cluster.url]
    )
    return subprocess.Popen(command, env=env, cwd=cluster.folder, start_new_session=True)


def kill_worker(cluster: Cluster, writing: Callable[[], bool], ended: Callable[[], bool]) -> str:
    """Kill a worker that runs sessions, once rows are being written; return its address and its actors."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        for worker in cluster.nodes[1:]:
            actors = [name for name in ("SessionHost", "ModelActor") if with_title(worker.pids(), f"ray::{name}")]
            if "SessionHost" in actors and writing():
                worker.end()
                return f"{worker.address} ({' and '.join(actors)})"
        assert not ended(), "the job ended before a worker could be killed"
        assert time.monotonic() < deadline, "no session ran on a worker"
        time.sleep(0.02)


def assert_same(local: Path, remote: Path) -> list[str]:
    """Compare two calibrations bit for bit; return a line for each table that was compared."""
    compared = []

    def compare_table(name: str, expected: pd.DataFrame, actual: pd.DataFrame) -> None:
        expected, actual = (frame.drop(columns=TIMING_COLUMNS, errors="ignore") for frame in (expected, actual))
        pd.testing.assert_frame_equal(actual, expected, check_exact=True, obj=name)
        compared.append(f"{name}: {len(expected):,} rows")

    for name in SESSION_TABLES:
        if (local / name).is_dir() or (local / f"{name}.parquet").is_file():
            compare_table(name, *(read_table(run, name).to_pandas() for run in (local, remote)))
    compare_table("trials", *(pq.read_table(run / "trials" / "trials.parquet").to_pandas() for run in (local, remote)))
    for name in SINGLE_FILE_TABLES:
        compare_table(name, *(pq.read_table(run / f"{name}.parquet").to_pandas() for run in (local, remote)))
    configs = [FilterConfig.load(run / "filter.toml") for run in (local, remote) if (run / "filter.toml").is_file()]
    assert len(configs) != 1, "only one of the runs certified a configuration"
    if configs:
        assert configs[0] == configs[1]
        compared.append(f"filter.toml: {configs[0]}")
    return compared


def small_study(folder: Path) -> Path:
    """Write a study that takes seconds and certifies a configuration."""
    study = tiny_study(
        server={"sessions_per_host": 4},
        attacks=[
            {
                "attack": "mi-face", "noise": 0.01, "labels": [0, 3], "trials": 3, "budget_queries": 60, "beta": 0,
                "gamma": 0.0,
            }
        ],
        users=[
            {"user": "independent", "sessions": 24, "length": {"min": 20, "max": 40}},
            {"user": "retries", "sessions": 24, "length": 30, "probability": 0.3},
        ],
        tuning={
            "trials": 12, "n_b": {"max": 10}, "ssim": ["global"], "grid": {"t_ssim": 6, "t_hash": 6},
            "false_positive_limit": 0.45,
        },
    )  # fmt: skip
    file = folder / "small.toml"
    file.write_text(tomli_w.dumps(study.to_toml()))
    return file


def submit_and_kill_worker(cluster: Cluster, study: str) -> tuple[Path, str]:
    """Submit a study and kill a worker during the run; return the run folder and a description of the worker."""
    shared = cluster.folder / "shared"
    shared.mkdir()
    # Two hosts and the model: the remaining nodes have capacity for all of them.
    arguments = [study, "--set", "server.hosts=2", "--storage", str(shared), "--out", str(cluster.folder / "run")]
    process = submit(cluster, arguments)

    def writing() -> bool:
        return any(shared.glob("cache/traces/*/*/*/*")) or any(shared.glob("cache/traces/*/*/*/.*"))

    try:
        killed = kill_worker(cluster, writing, lambda: process.poll() is not None)
        assert process.wait(TIMEOUT_SECONDS) == 0, "the job failed"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return cluster.folder / "run", killed


def main() -> None:
    """Run the comparison and print what was compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--study", default="calibrate-digits", help="'small', a study file, or the name of a shipped study"
    )
    options = parser.parse_args()
    if why := why_no_namespaces():
        sys.exit(f"cannot create network namespaces: {why}")

    def terminate(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, terminate)  # lets the context managers end all processes
    with tempfile.TemporaryDirectory(prefix="mifsim-cluster-") as folder:
        study = str(small_study(Path(folder))) if options.study == "small" else options.study
        local = Path(folder) / "local"
        started = time.monotonic()
        tune_locally(study, local, Path(folder) / "cache")
        print(f"on this machine: {time.monotonic() - started:.0f} s", flush=True)
        with in_namespaces(2) as cluster:
            nodes = ", ".join(node.address for node in cluster.nodes)
            started = time.monotonic()
            remote, killed = submit_and_kill_worker(cluster, study)
            print(
                f"on a cluster of {nodes}, worker killed during the run: {killed}: {time.monotonic() - started:.0f} s",
                flush=True,
            )
            for line in assert_same(local, remote):
                print(f"  equal {line}")
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
