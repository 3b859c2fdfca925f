"""One study on this machine alone and as a job on a cluster of three, a worker of which is killed: the rows are equal.

``python -m tests.cluster.namespaces`` runs the demo's study on nodes in network namespaces (``make cluster-test``; root
and iproute2). ``--study small`` takes a study of seconds, as `test_jobs` does.
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
from tests.chaos.processes import titled
from tests.cluster.nodes import ROOT, Cluster, in_namespaces, why_no_namespaces
from tests.tuning.studies import tiny_study

PATIENCE_SECONDS = 3600.0
SESSIONS = ("sessions", "queries", "snapshots", "leakage")
FILES = ("pareto", "certification")
CLOCK = ["elapsed_seconds"]
"""Columns of a time that went by."""


def tune_here(study: str, run: Path, cache: Path) -> None:
    """Calibrate on this machine alone, with a cache that holds nothing yet."""
    command = [sys.executable, "-m", "mifsim", "tune", study, "--out", str(run)]
    env = {**os.environ, "MIFSIM_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=env, check=True, cwd=run.parent)


def submit(cluster: Cluster, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start `mifsim submit` on the head, as the end of a tunnel would be."""
    command, env = cluster.on(
        cluster.head, [sys.executable, "-m", "mifsim", "submit", *arguments, "--address", cluster.url]
    )
    return subprocess.Popen(command, env=env, cwd=cluster.folder, start_new_session=True)


def kill_in_the_middle(cluster: Cluster, begun: Callable[[], bool], ended: Callable[[], bool]) -> str:
    """End a worker that runs sessions, some of which have begun to write; say which, and what ran there."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        for worker in cluster.nodes[1:]:
            remote = [name for name in ("SessionHost", "ModelActor") if titled(worker.pids(), f"ray::{name}")]
            if "SessionHost" in remote and begun():
                worker.end()
                return f"{worker.address} ({' and '.join(remote)})"
        assert not ended(), "the job was over before a worker could be killed"
        assert time.monotonic() < deadline, "no session ever ran on a worker"
        time.sleep(0.02)


def assert_same(here: Path, remote: Path) -> list[str]:
    """Compare two calibrations, row for row and bit for bit; return what was compared."""
    told = []

    def same(name: str, one: pd.DataFrame, other: pd.DataFrame) -> None:
        one, other = (frame.drop(columns=CLOCK, errors="ignore") for frame in (one, other))
        pd.testing.assert_frame_equal(other, one, check_exact=True, obj=name)
        told.append(f"{name}: {len(one):,} rows")

    for name in SESSIONS:
        if (here / name).is_dir() or (here / f"{name}.parquet").is_file():
            same(name, *(read_table(run, name).to_pandas() for run in (here, remote)))
    same("trials", *(pq.read_table(run / "trials" / "trials.parquet").to_pandas() for run in (here, remote)))
    for name in FILES:
        same(name, *(pq.read_table(run / f"{name}.parquet").to_pandas() for run in (here, remote)))
    configs = [FilterConfig.load(run / "filter.toml") for run in (here, remote) if (run / "filter.toml").is_file()]
    assert len(configs) != 1, "one of them chose a setting, the other did not"
    if configs:
        assert configs[0] == configs[1]
        told.append(f"filter.toml: {configs[0]}")
    return told


def small_study(folder: Path) -> Path:
    """Write a study of some seconds that certifies a setting."""
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


def disturbed(cluster: Cluster, study: str) -> tuple[Path, str]:
    """Submit a study, kill a worker in the middle; return the run's folder, and which worker it was."""
    shared = cluster.folder / "shared"
    shared.mkdir()
    # Two hosts and the model: there is room for all of them on the nodes that will be left.
    arguments = [study, "--set", "server.hosts=2", "--storage", str(shared), "--out", str(cluster.folder / "run")]
    process = submit(cluster, arguments)

    def begun() -> bool:
        return any(shared.glob("cache/traces/*/*/*/*")) or any(shared.glob("cache/traces/*/*/*/.*"))

    try:
        ran = kill_in_the_middle(cluster, begun, lambda: process.poll() is not None)
        assert process.wait(PATIENCE_SECONDS) == 0, "the job failed"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return cluster.folder / "run", ran


def main() -> None:
    """Run the comparison and print what was compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="calibrate-digits", help="'small', or what mifsim tune takes")
    options = parser.parse_args()
    if why := why_no_namespaces():
        sys.exit(f"no network namespaces here: {why}")

    def terminate(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, terminate)  # so that all that was started is ended
    with tempfile.TemporaryDirectory(prefix="mifsim-cluster-") as folder:
        study = str(small_study(Path(folder))) if options.study == "small" else options.study
        here = Path(folder) / "here"
        started = time.monotonic()
        tune_here(study, here, Path(folder) / "cache")
        print(f"on this machine alone: {time.monotonic() - started:.0f} s", flush=True)
        with in_namespaces(2) as cluster:
            nodes = ", ".join(node.address for node in cluster.nodes)
            started = time.monotonic()
            remote, ran = disturbed(cluster, study)
            print(
                f"on a cluster of {nodes}, one worker killed on the way, {ran}: {time.monotonic() - started:.0f} s",
                flush=True,
            )
            for line in assert_same(here, remote):
                print(f"  the same {line}")
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
