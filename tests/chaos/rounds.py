"""Rounds of chaos: one run each, with one fault at a random moment, resumed until it is complete.

``python -m tests.chaos.rounds --rounds 50 --seed 0`` runs the long form (``make chaos``); `test_chaos` the short one.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import tomli_w

from mifsim.records import read_table
from tests.chaos.processes import below, kill, titled
from tests.small import small_study

TABLES = ("sessions", "queries", "snapshots", "leakage")
PATIENCE_SECONDS = 180.0
RESUMES = 3
"""A run that is not complete after so many is lost."""

CHANGES = {
    "server": {"sessions_per_host": 12, "batch_size": 16, "hosts": 2},
    "attacks": [
        {"attack": "mi-face", "noise": 0.002, "trials": 2, "budget_queries": 60, "beta": 0, "gamma": 0.0},
        {
            "attack": "mi-face", "noise": 0.002, "labels": [1, 2], "budget_queries": 60, "beta": 0, "gamma": 0.0,
            "evasions": [{"rotate": 10}],
        },
    ],
    "users": [{"user": "retries", "sessions": 60, "length": 30, "probability": 0.2}],
}  # fmt: skip
"""A study of a few seconds: long enough for every fault to fall into the middle of it."""


def end_model(driver: int) -> None:
    """The model's actor dies; Ray starts it again."""
    kill(titled(below(driver), "ray::ModelActor"))


def end_host(driver: int) -> None:
    """A session host dies, perhaps while it writes."""
    kill(titled(below(driver), "ray::SessionHost")[:1])


def end_all_workers(driver: int) -> None:
    """Model and hosts die together."""
    kill(titled(below(driver), "ray::"))


def end_node(driver: int) -> None:
    """The node dies: its raylet, and with it every worker."""
    kill(titled(below(driver), "raylet/raylet"))


def end_driver(driver: int) -> None:
    """The driver is killed: nobody marks the run as interrupted."""
    kill([driver])


def interrupt(driver: int) -> None:
    """Ctrl-C."""
    os.kill(driver, signal.SIGINT)


def slow_host(driver: int) -> None:
    """A host stands still for a while, as on a node that swaps."""
    for pid in (hosts := titled(below(driver), "ray::SessionHost")[:1]):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2)
    for pid in hosts:
        os.kill(pid, signal.SIGCONT)


FAULTS: dict[str, Callable[[int], None]] = {
    "model": end_model,
    "host": end_host,
    "workers": end_all_workers,
    "node": end_node,
    "driver": end_driver,
    "interrupt": interrupt,
    "slow host": slow_host,
}


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start mifsim in a session of its own, its output in a file."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "mifsim", *arguments], stdout=out, stderr=out, start_new_session=True
        )


def end_with_children(process: subprocess.Popen[bytes], children: list[int]) -> int:
    """Wait for a driver, and see to it that nothing of its cluster is left."""
    try:
        code = process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        kill([*below(process.pid), process.pid])
        raise AssertionError(f"the run hangs after {PATIENCE_SECONDS:.0f} s") from None
    finally:
        kill(children)
    return code


def disturbed(study: Path, run: Path, fault: Callable[[int], None], moment: float) -> int:
    """Run a study with a fault `moment` seconds after its first hosts are there; return how often it was resumed."""
    log = run.with_suffix(".log")
    process = start(["simulate", str(study), "--out", str(run)], log)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not titled(below(process.pid), "ray::SessionHost") and process.poll() is None:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    time.sleep(moment)
    children = below(process.pid)
    if process.poll() is None:
        fault(process.pid)
    code = end_with_children(process, children)
    resumes = 0
    while code != 0:
        resumes += 1
        assert resumes <= RESUMES, f"not complete after {RESUMES} resumes:\n{log.read_text()}"
        assert "Traceback" not in log.read_text() or code < 0, log.read_text()
        arguments = ["simulate", "--resume", str(run)] if (run / "run.json").is_file() else [
            "simulate", str(study), "--out", str(run)
        ]  # fmt: skip
        process = start(arguments, log)
        code = end_with_children(process, [])
    return resumes


def assert_same_rows(one: Path, other: Path) -> None:
    """Compare every table of two runs, row for row and bit for bit."""
    for name in TABLES:
        expected, got = (read_table(run, name).to_pandas() for run in (one, other))
        pd.testing.assert_frame_equal(got, expected, check_exact=True, obj=name)
    left = [path for path in other.rglob(".*") if path.is_file()]
    assert not left, f"left half done: {left}"


def main() -> None:
    """Run the rounds, and say for each what was done to it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=6.0, help="seconds after the start within which it happens")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="mifsim-chaos-") as folder:
        study = Path(folder) / "study.toml"
        study.write_text(tomli_w.dumps(small_study(**CHANGES).to_toml()))
        calm = Path(folder) / "calm"
        assert end_with_children(start(["simulate", str(study), "--out", str(calm)], calm.with_suffix(".log")), []) == 0
        for number in range(options.rounds):
            name = rng.choice(list(FAULTS))
            moment = rng.uniform(0, options.longest)
            run = Path(folder) / f"round-{number}"
            resumes = disturbed(study, run, FAULTS[name], moment)
            assert_same_rows(calm, run)
            print(
                f"round {number + 1:3}: {name:9} after {moment:4.1f} s, resumed {resumes} times: same rows", flush=True
            )
    print(f"{options.rounds} passed, 0 failed")


if __name__ == "__main__":
    main()
