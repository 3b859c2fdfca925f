"""Rounds of fault injection: one run each, with one fault at a random moment, resumed until it is complete.

``python -m tests.chaos.rounds --rounds 50 --seed 0`` runs many rounds (``make chaos``); `test_rounds` runs a few.
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
from tests.chaos.faults import FAULTS, NO_EFFECT, Fault
from tests.chaos.processes import descendants, kill
from tests.chaos.setups import Target
from tests.small import small_study

TABLES = ("sessions", "queries", "snapshots", "leakage")
CALIBRATION_FILES = ("trials/trials.parquet", "pareto.parquet", "certification.parquet")
"""Further tables of a calibration, one file each."""
TIMEOUT_SECONDS = 300.0
MAX_RESUMES = 3
"""Number of resumes after which a run must be complete."""
NOT_STARTED = "a local Ray did not start"
"""Error message of a run that failed before the fault, because the machine is overloaded."""

_ATTACK = {"attack": "mi-face", "noise": 0.002, "budget_queries": 60, "beta": 0, "gamma": 0.0}
_ROTATING = {**_ATTACK, "name": "rotating", "labels": [1, 2], "evasions": [{"rotate": 10}]}
_RETRIES = {"user": "retries", "length": 30, "probability": 0.2}
_SERVER = {"sessions_per_host": 12, "batch_size": 16, "hosts": 2}
SIMULATE: dict[str, Any] = {
    "server": _SERVER,
    "attacks": [{**_ATTACK, "trials": 2}, _ROTATING],
    "users": [{**_RETRIES, "sessions": 60}],
}
"""A study of a few seconds, long enough for every fault to occur during the run."""
TUNE: dict[str, Any] = {
    "server": _SERVER,
    "tuning": {
        "trials": 40,
        "space": {"n_b": {"max": 10}, "l_sp": {"min": 2, "max": 8}, "t_ssim": {"max": 0.9}, "t_hash": {"min": 0.003}},
        "grid": {"t_ssim": 6, "t_hash": 6},
        "false_positive_limit": 0.6, "false_positive_budget": 0.9, "confidence": 0.8,
    },
    "attacks": [{**_ATTACK, "trials": 3}, {**_ROTATING, "trials": 3}],
    "users": [{**_RETRIES, "sessions": 24}],
}  # fmt: skip
"""A calibration with attackers that run live in its trials, so that the search uses the model."""
SPILLING: dict[str, Any] = {
    "server": {"sessions_per_host": 24576, "batch_size": 1024, "hosts": 2},
    "filters": [{"none": True}],
    "attacks": [],
    "users": [{"user": "independent", "sessions": 49152, "length": 2}],
}
"""Sessions whose images exceed the small object store: six shards of 26 MB are in flight."""

STUDIES = {"simulate": ("simulate", SIMULATE), "tune": ("tune", TUNE), "spilling": ("simulate", SPILLING)}


@dataclass(frozen=True)
class Baseline:
    """A study and its run without faults."""

    command: str
    study: Path
    run: Path
    cache: Path

    @property
    def work(self) -> int:
        """The progress of the complete run; see `Target.progress`."""
        recordings = self.cache / "traces" if self.command == "tune" else self.run / "none"
        return Target(self.run, recordings=recordings).progress()


def run_baseline(kind: str, folder: Path) -> Baseline:
    """Run one of `STUDIES` without faults; later runs use a copy of its cache, with the data and the victim."""
    command, changes = STUDIES[kind]
    cache, folder = folder / "cache", folder / kind
    folder.mkdir()
    study, run = folder / "study.toml", folder / "baseline"
    study.write_text(tomli_w.dumps(small_study(**changes).to_toml()))
    log, arguments = folder / "baseline.log", [command, str(study), "--out", str(run)]
    while True:
        process = _start(arguments, log, cache)
        if (code := _wait_and_kill(process, [])) == 0 or NOT_STARTED not in log.read_text():
            break
        log.unlink()
        shutil.rmtree(run, ignore_errors=True)
    assert code == 0, log.read_text()
    return Baseline(command, study, run, cache)


@dataclass(frozen=True)
class RoundResult:
    """The effect of the fault, the exit code of the first driver, and the number of resumes."""

    effect: str
    code: int
    resumes: int


def run_with_fault(baseline: Baseline, fault: Fault, fraction: float, folder: Path, rng: random.Random) -> RoundResult:
    """Run a study with a fault after a fraction of its work, and compare its rows with the baseline.

    Raises
    ------
    AssertionError
        If the run hangs, does not complete after `MAX_RESUMES` resumes, ends in a traceback, needs a resume although
        it must survive the fault, or has other rows than the baseline.
    """
    folder.mkdir()
    cache, log = folder / "cache", folder / "log"
    # Other tests may write to the cache meanwhile, to files that start with a dot until they are complete.
    shutil.copytree(baseline.cache, cache, ignore=shutil.ignore_patterns("traces", ".*"))
    with fault.setup(folder) as target:
        target.recordings = cache / "traces"
        arguments = [baseline.command, str(baseline.study), "--out", str(target.run), *target.arguments]
        process = _start(arguments, log, cache)
        target.driver = process.pid
        _wait_for_hosts(target, process, log)
        if NOT_STARTED in log.read_text():
            raise TimeoutError(NOT_STARTED)
        if fault.at_random:
            while target.progress() < fraction * baseline.work and process.poll() is None:
                time.sleep(0.01)
        children = descendants(process.pid)
        effects: list[str] = []
        # In a thread, because the fault may wait for its condition while this thread waits for the driver.
        injection = threading.Thread(target=lambda: effects.append(fault.inject(target, rng)))
        injection.start()
        code = _wait_and_kill(process, children)
        injection.join()
        (target.run.parent / "filler").unlink(missing_ok=True)
        effect, first_code, resumes = effects[0], code, 0
        while code != 0:
            resumes += 1
            assert resumes <= MAX_RESUMES, f"not complete after {MAX_RESUMES} resumes:\n{log.read_text()}"
            assert "Traceback" not in log.read_text() or code < 0, log.read_text()
            process = _start([*_next_command(baseline, target.run), *target.arguments], log, cache)
            code = _wait_and_kill(process, [])
        if fault.survived or effect == NO_EFFECT:
            assert resumes == 0, f"{effect}: the run did not survive the fault:\n{log.read_text()}"
        assert_same_rows(baseline.run, target.run)
    return RoundResult(effect, first_code, resumes)


def _next_command(baseline: Baseline, run: Path) -> list[str]:
    if not (run / "run.json").is_file():
        return [baseline.command, str(baseline.study), "--out", str(run)]
    if json.loads((run / "run.json").read_text())["status"] == "complete":  # only the report page may be missing
        return ["report", str(run)]
    return [baseline.command, "--resume", str(run)]


def assert_same_rows(baseline: Path, run: Path) -> None:
    """Compare every table of two runs bit for bit, and the chosen configuration."""
    for name in TABLES:
        if not (baseline / name).is_dir():
            continue
        expected, actual = (read_table(folder, name).to_pandas() for folder in (baseline, run))
        pd.testing.assert_frame_equal(actual, expected, check_exact=True, obj=name)
    for name in CALIBRATION_FILES:
        if not (baseline / name).is_file():
            continue
        expected, actual = (
            pq.read_table(folder / name).to_pandas().drop(columns="elapsed_seconds", errors="ignore")
            for folder in (baseline, run)
        )
        pd.testing.assert_frame_equal(actual, expected, check_exact=True, obj=name)
    files = [folder / "filter.toml" for folder in (baseline, run)]
    chosen = [file.read_text() if file.is_file() else None for file in files]
    assert chosen[0] == chosen[1]
    partial = [path for path in run.rglob(".*") if path.is_file()]
    assert not partial, f"partial files: {partial}"


def _start(arguments: Sequence[str], log: Path, cache: Path) -> subprocess.Popen[bytes]:
    """Start mifsim in a new process session, with its output in a file."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "mifsim", *arguments],
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, "MIFSIM_CACHE_DIR": str(cache)},
        )


def _wait_for_hosts(target: Target, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not target.workers("ray::SessionHost") and process.poll() is None:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def _wait_and_kill(process: subprocess.Popen[bytes], children: list[int]) -> int:
    """Wait for a driver, and kill the remaining processes of its Ray; return the exit code."""
    try:
        code = process.wait(TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        kill([*descendants(process.pid), process.pid])
        raise AssertionError(f"the run hangs after {TIMEOUT_SECONDS:.0f} s") from None
    finally:
        kill(children)
    return code


def main() -> None:
    """Run the rounds, and print the effect of each fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(FAULTS), help="inject only this fault")
    parser.add_argument("--study", choices=list(STUDIES), help="run only this study")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    # A background shell ignores SIGINT, which the drivers would inherit; but they must be interruptible.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng = random.Random(options.seed)
    passed: list[str] = []
    failed: list[str] = []
    without_effect = 0
    with tempfile.TemporaryDirectory(prefix="mifsim-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        baselines: dict[str, Baseline] = {}
        for number in range(1, options.rounds + 1):
            fault_name = options.only or rng.choice(list(FAULTS))
            fault, fraction = FAULTS[fault_name], rng.random()
            command = rng.choice(["simulate", "simulate", "tune"]) if fault.tune else "spilling"
            command = options.study or command
            if command not in baselines:
                baselines[command] = run_baseline(command, folder)
                print(f"baseline: {command}, {baselines[command].work} shards and trials", flush=True)
            title = f"round {number:3}: {command:8} {fault_name:13} at {fraction:4.0%}"
            try:
                result = run_with_fault(baselines[command], fault, fraction, folder / f"round-{number}", rng)
            except AssertionError as error:
                failed.append(title)
                print(f"{title}: FAILED: {error}", flush=True)
                continue
            except (PermissionError, TimeoutError) as error:
                print(f"{title}: cannot be injected on this machine: {error}", flush=True)
                continue
            passed.append(title)
            without_effect += result.effect == NO_EFFECT
            effect = result.effect or "the run had ended before"
            print(f"{title}: {effect}; exit code {result.code}, resumed {result.resumes} times; same rows", flush=True)
            shutil.rmtree(folder / f"round-{number}", ignore_errors=True)
    print(f"{len(passed)} passed ({without_effect} of them without effect, after the run), {len(failed)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
