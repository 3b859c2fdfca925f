"""Rounds of chaos: one run each, with one fault at a random moment, resumed until it is complete.

``python -m tests.chaos.rounds --rounds 50 --seed 0`` runs the long form (``make chaos``); `test_rounds` the short one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import tomli_w

from mifsim.tables.records import read_table
from tests.chaos.faults import CAUSED_NOTHING, FAULTS, Fault
from tests.chaos.processes import below, kill
from tests.chaos.stages import Stage
from tests.small import small_study

TABLES = ("sessions", "queries", "snapshots", "leakage")
FILES = ("trials/trials.parquet", "pareto.parquet", "certification.parquet")
"""Of a calibration, beside `TABLES`."""
PATIENCE_SECONDS = 300.0
RESUMES = 3
"""A run that is not complete after so many is lost."""
NEVER_BEGAN = "a local Ray did not start"
"""On a machine that is overloaded: nothing was disturbed yet."""

_ATTACK = {"attack": "mi-face", "noise": 0.002, "budget_queries": 60, "beta": 0, "gamma": 0.0}
_ROTATING = {**_ATTACK, "name": "rotating", "labels": [1, 2], "evasions": [{"rotate": 10}]}
_RETRIES = {"user": "retries", "length": 30, "probability": 0.2}
_SERVER = {"sessions_per_host": 12, "batch_size": 16, "hosts": 2}
SIMULATE: dict[str, Any] = {
    "server": _SERVER,
    "attacks": [{**_ATTACK, "trials": 2}, _ROTATING],
    "users": [{**_RETRIES, "sessions": 60}],
}
"""A study of a few seconds: long enough for every fault to fall into the middle of it."""
TUNE: dict[str, Any] = {
    "server": _SERVER,
    "tuning": {
        "trials": 40,
        "space": {"n_b": {"max": 10}, "l_sp": {"min": 2, "max": 8}, "t_ssim": {"max": 0.9}, "t_hash": {"min": 0.003}},
        "grid": {"t_ssim": 6, "t_hash": 6}, "false_positive_limit": 0.6, "false_positive_budget": 0.9, "confidence": 0.8,
    },
    "attacks": [{**_ATTACK, "trials": 3}, {**_ROTATING, "trials": 3}],
    "users": [{**_RETRIES, "sessions": 24}],
}  # fmt: skip
"""A calibration with attackers that run live in its trials, so that model and trials may die in the search."""
SPILLING: dict[str, Any] = {
    "server": {"sessions_per_host": 24576, "batch_size": 1024, "hosts": 2},
    "filters": [{"none": True}],
    "attacks": [],
    "users": [{"user": "independent", "sessions": 49152, "length": 2}],
}
"""Sessions enough for their images to outgrow the small object store: six shards of 26 MB are under way."""

STUDIES = {"simulate": ("simulate", SIMULATE), "tune": ("tune", TUNE), "spilling": ("simulate", SPILLING)}


@dataclass(frozen=True)
class Calm:
    """A study, and the run of it that nothing happened to."""

    command: str
    study: Path
    run: Path
    cache: Path

    @property
    def done(self) -> int:
        """How far it came: see `Stage.done`."""
        recordings = self.cache / "traces" if self.command == "tune" else self.run / "none"
        return Stage(self.run, recordings=recordings).done()


def run_calmly(kind: str, folder: Path) -> Calm:
    """Run one of `STUDIES` undisturbed; later runs find its data and its victim in a copy of its cache."""
    command, changes = STUDIES[kind]
    cache, folder = folder / "cache", folder / kind
    folder.mkdir()
    study, run = folder / "study.toml", folder / "calm"
    study.write_text(tomli_w.dumps(small_study(**changes).to_toml()))
    log, arguments = folder / "calm.log", [command, str(study), "--out", str(run)]
    while True:
        process = _start(arguments, log, cache)
        if (code := _end_with_children(process, [])) == 0 or NEVER_BEGAN not in log.read_text():
            break
        log.unlink()
        shutil.rmtree(run, ignore_errors=True)
    assert code == 0, log.read_text()
    return Calm(command, study, run, cache)


@dataclass(frozen=True)
class Outcome:
    """What a round was: what the fault hit, the driver's exit code, and how often the run had to be resumed."""

    hit: str
    code: int
    resumes: int


def disturbed(calm: Calm, fault: Fault, fraction: float, folder: Path, rng: random.Random) -> Outcome:
    """Run a study with a fault after a share of its work, and see that nothing came of it.

    Raises
    ------
    AssertionError
        Where the run hangs, is lost, ends in a traceback, had to be resumed though it should not have been, or leaves
        other rows than an undisturbed one.
    """
    folder.mkdir()
    cache, log = folder / "cache", folder / "log"
    shutil.copytree(calm.cache, cache, ignore=shutil.ignore_patterns("traces"))
    with fault.place(folder) as at:
        at.recordings = cache / "traces"
        process = _start([calm.command, str(calm.study), "--out", str(at.run), *at.arguments], log, cache)
        at.driver = process.pid
        _await_hosts(at, process, log)
        if NEVER_BEGAN in log.read_text():
            raise TimeoutError(NEVER_BEGAN)
        if fault.at_random:
            while at.done() < fraction * calm.done and process.poll() is None:
                time.sleep(0.01)
        children = below(process.pid)
        hits: list[str] = []
        # Beside the driver: whoever is interrupted must be waited for, and a fault may wait for its condition.
        injecting = threading.Thread(target=lambda: hits.append(fault.inject(at, rng)))
        injecting.start()
        code = _end_with_children(process, children)
        injecting.join()
        (at.run.parent / "filler").unlink(missing_ok=True)
        hit, first, resumes = hits[0], code, 0
        while code != 0:
            resumes += 1
            assert resumes <= RESUMES, f"not complete after {RESUMES} resumes:\n{log.read_text()}"
            assert "Traceback" not in log.read_text() or code < 0, log.read_text()
            process = _start([*_next_command(calm, at.run), *at.arguments], log, cache)
            code = _end_with_children(process, [])
        if fault.survived or hit == CAUSED_NOTHING:
            assert resumes == 0, f"{hit}: was not survived:\n{log.read_text()}"
        assert_same_rows(calm.run, at.run)
    return Outcome(hit, first, resumes)


def _next_command(calm: Calm, run: Path) -> list[str]:
    if not (run / "run.json").is_file():
        return [calm.command, str(calm.study), "--out", str(run)]
    if json.loads((run / "run.json").read_text())["status"] == "complete":  # but for its page
        return ["report", str(run)]
    return [calm.command, "--resume", str(run)]


def assert_same_rows(one: Path, other: Path) -> None:
    """Compare every table of two runs, row for row and bit for bit, and the configuration that was chosen."""
    for name in TABLES:
        if not (one / name).is_dir():
            continue
        expected, got = (read_table(run, name).to_pandas() for run in (one, other))
        pd.testing.assert_frame_equal(got, expected, check_exact=True, obj=name)
    for name in FILES:
        if not (one / name).is_file():
            continue
        expected, got = (
            pq.read_table(run / name).to_pandas().drop(columns="elapsed_seconds", errors="ignore")
            for run in (one, other)
        )
        pd.testing.assert_frame_equal(got, expected, check_exact=True, obj=name)
    chosen = [(run / "filter.toml").read_text() if (run / "filter.toml").is_file() else None for run in (one, other)]
    assert chosen[0] == chosen[1]
    left = [path for path in other.rglob(".*") if path.is_file()]
    assert not left, f"left half done: {left}"


def _start(arguments: Sequence[str], log: Path, cache: Path) -> subprocess.Popen[bytes]:
    """Start mifsim in a session of its own, its output in a file."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "mifsim", *arguments],
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, "MIFSIM_CACHE_DIR": str(cache)},
        )


def _await_hosts(at: Stage, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not at.workers("ray::SessionHost") and process.poll() is None:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def _end_with_children(process: subprocess.Popen[bytes], children: list[int]) -> int:
    """Wait for a driver, and see to it that nothing of its own Ray is left."""
    try:
        code = process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        kill([*below(process.pid), process.pid])
        raise AssertionError(f"the run hangs after {PATIENCE_SECONDS:.0f} s") from None
    finally:
        kill(children)
    return code


def main() -> None:
    """Run the rounds, and say for each what was done to it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(FAULTS), help="this fault alone")
    parser.add_argument("--study", choices=list(STUDIES), help="this study alone")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    # A shell in the background has it ignored, and so would every driver below: it is to be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng = random.Random(options.seed)
    passed: list[str] = []
    failed: list[str] = []
    idle = 0
    with tempfile.TemporaryDirectory(prefix="mifsim-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        calm: dict[str, Calm] = {}
        for number in range(1, options.rounds + 1):
            fault_name = options.only or rng.choice(list(FAULTS))
            fault, fraction = FAULTS[fault_name], rng.random()
            command = rng.choice(["simulate", "simulate", "tune"]) if fault.tune else "spilling"
            command = options.study or command
            if command not in calm:
                calm[command] = run_calmly(command, folder)
                print(f"undisturbed: {command}, {calm[command].done} shards and trials", flush=True)
            title = f"round {number:3}: {command:8} {fault_name:13} at {fraction:4.0%}"
            try:
                found = disturbed(calm[command], fault, fraction, folder / f"round-{number}", rng)
            except AssertionError as error:
                failed.append(title)
                print(f"{title}: FAILED: {error}", flush=True)
                continue
            except (PermissionError, TimeoutError) as error:
                print(f"{title}: cannot be injected here: {error}", flush=True)
                continue
            passed.append(title)
            idle += found.hit == CAUSED_NOTHING
            hit = found.hit or "the run was over before"
            print(f"{title}: {hit}; exit code {found.code}, resumed {found.resumes} times; same rows", flush=True)
            shutil.rmtree(folder / f"round-{number}", ignore_errors=True)
    print(f"{len(passed)} passed ({idle} of them came too late to disturb anything), {len(failed)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
