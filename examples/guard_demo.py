"""The guard at work: ``make guard-demo``, after ``make demo``.

A model server answers by the demo's victim. The guard with the demo's filter.toml stands before it. Honest users and
the demo's attackers query it over HTTP. Every session must be blocked at the query that a simulation of the same study
names, and every answer must be that of the simulation. Then the filter is calibrated again, from the guard's own log of
the honest users. All processes listen on free ports of loopback, and end with this one.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import tomli_w

from mifsim import Study, load_data
from mifsim.errors import UserError
from mifsim.victims import prepare_victim
from reports.sessions import compare_sessions, print_sessions

STUDY = "calibrate-digits"
SESSIONS = 32
"""Number of sessions of each workload. Together, half of them are enough for a guarantee of `LIMIT`."""
LIMIT = 0.05
SPLITS = {"search": 0.3, "calibration": 0.5, "test": 0.2}
START_SECONDS, END_SECONDS = 120.0, 20.0
SERVER = {"sessions_per_host": 12, "batch_size": 32}
"""Small shards, many of which query the guard at the same time; the model server has the batch of the simulation."""
MODEL = "/v2/models/model/infer"


class Process:
    """A process whose output is shown, or kept until something goes wrong."""

    def __init__(self, command: list[str], *, shown: bool) -> None:
        self.lines: list[str] = []
        self._shown, self._port = shown, threading.Event()
        self.port = 0
        self.running = subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.running.stdout is not None
        for line in self.running.stdout:
            self.lines.append(line)
            if self._shown:
                print(f"    {line}", end="", flush=True)
            if match := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(match[1])
                self._port.set()
        self._port.set()

    def listening(self) -> int:
        """Return the port of a server, when it has one."""
        if not self._port.wait(START_SECONDS) or not self.port:
            raise UserError("a server did not start:\n" + "".join(self.lines[-20:]))
        return self.port

    def finish(self) -> None:
        """Wait for the end of a command."""
        code = self.running.wait()
        self._reader.join()
        if code:
            shown = "" if self._shown else ":\n" + "".join(self.lines[-20:])
            raise UserError(f"{' '.join(map(str, self.running.args))}: exit code {code}{shown}")  # type: ignore[arg-type]

    def stop(self) -> None:
        """End the process, and wait for it."""
        if self.running.poll() is None:
            self.running.terminate()
        try:
            self.running.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()


@contextmanager
def processes() -> Iterator[list[Process]]:
    """Collect processes, all of which are ended with the context, also on Ctrl-C, SIGTERM and errors."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    started: list[Process] = []
    try:
        yield started
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for process in reversed(started):
            process.stop()


class Demo:
    """The steps of the demo.

    Parameters
    ----------
    calibration : Path
        Run folder of ``make demo``.
    folder : Path
        A new folder for everything that the demo writes.
    started : list of Process
        Every process that is started is added.
    """

    def __init__(self, calibration: Path, folder: Path, started: list[Process]) -> None:
        self.folder, self._started = folder, started
        folder.mkdir(parents=True)
        shutil.copy(calibration / "filter.toml", folder)
        self._study = Study.load(calibration / "study.toml")
        self._began = time.monotonic()

    def step(self, text: str) -> None:
        """Print what comes next."""
        print(f"\n[{time.monotonic() - self._began:3.0f} s] {text}", flush=True)

    def mifsim(self, *arguments: str, shown: bool = False) -> Process:
        """Start a command of mifsim."""
        print(f"  $ mifsim {' '.join(arguments)}", flush=True)
        return self._start(Process([sys.executable, "-m", "mifsim", *arguments], shown=shown))

    def _start(self, process: Process) -> Process:
        self._started.append(process)
        return process

    def model_server(self) -> int:
        """Start the model server with the victim of the calibration; return its port."""
        data = load_data(self._study.data)
        victim = prepare_victim(data, self._study.victim)
        shape, classes = [str(side) for side in data.shape], str(len(data.class_names))
        server = str(Path(__file__).with_name("model_server.py"))
        options = ["--shape", *shape, "--classes", classes, "--batch", str(SERVER["batch_size"]), "--port", "0"]
        print(f"  $ python examples/model_server.py {victim.path} {' '.join(options)}", flush=True)
        command = [sys.executable, server, str(victim.path), *options]
        return self._start(Process(command, shown=False)).listening()

    def guard(self, upstream: int, log: str) -> Process:
        """Start the guard; its ledger outlives it."""
        return self.mifsim(
            "guard", str(self.folder / "filter.toml"), "--upstream", f"http://127.0.0.1:{upstream}", "--port", "0",
            "--ledger", f"sqlite:{self.folder / 'guard.db'}", "--log", str(self.folder / log),
        )  # fmt: skip

    def study(self, file: str, **sections: Any) -> str:
        """Write a study with the demo's populations, some of whose sections are replaced; return its path."""
        plain = self._study.to_toml()
        plain |= {
            "name": "guard-demo",
            "server": {**plain["server"], **SERVER},
            "leakage": {**plain["leakage"], "enabled": False},
            "filters": [{"name": "deployed", "file": str((self.folder / "filter.toml").resolve())}],
            "attacks": [{**attack, "trials": 1} for attack in plain["attacks"]],
            "users": [{**users, "sessions": SESSIONS} for users in plain["users"]],
            **sections,
        }
        plain["tuning"].pop("compare", None)
        path = self.folder / f"{file}.toml"
        path.write_text(tomli_w.dumps(plain))
        return str(path)

    def through(self, study: str, guard: Process, name: str) -> Path:
        """Let the clients of a study query the guard; return the run folder."""
        out, url = self.folder / name, f"http://127.0.0.1:{guard.listening()}{MODEL}"
        self.mifsim("simulate", study, "--through", url, "--out", str(out)).finish()
        return out

    def same(self, run: Path, simulated: Path, name: str) -> bool:
        """Print the sessions behind the guard beside the simulated ones; return whether they are the same."""
        table = compare_sessions(run, simulated)
        print_sessions(table, (name, "simulation"))
        return bool(table["same"].all())

    def recalibration(self) -> str:
        """Write a study that calibrates on the log; return its path."""
        plain = self._study.to_toml()
        tuning = {**plain["tuning"], "trials": 100, "false_positive_limit": LIMIT, "splits": SPLITS, "reference": False}
        path = str((self.folder / "honest").resolve())
        users = [{"user": "log", "name": "logged users", "path": path, "sessions": "all"}]
        # Half of the classes, and few queries: the attackers of the demo are blocked after some ten queries.
        fewer = {"budget_queries": 60, "labels": [0, 2, 4, 6, 8]}
        attacks = [{**attack, **fewer} for attack in plain["attacks"]]
        sections = {"tuning": tuning, "users": users, "attacks": attacks, "server": plain["server"]}
        return self.study("recalibrate", name="recalibrate", **sections)


def run(calibration: Path, folder: Path) -> int:
    """Run the demo; return the exit code."""
    with processes() as started:
        demo = Demo(calibration, folder, started)
        demo.step("a model server with the demo's victim, the guard before it; meanwhile, the simulation")
        everyone = demo.study("study")
        simulated = demo.folder / "simulated"
        simulation = demo.mifsim("simulate", everyone, "--backend", "in-process", "--out", str(simulated))
        upstream = demo.model_server()
        guard = demo.guard(upstream, "honest")

        demo.step("honest users query the guard, which logs them")
        honest = demo.through(demo.study("users", attacks=[]), guard, "guarded-users")
        guard.stop()

        demo.step("the guard is restarted with another log; attackers query it")
        guard = demo.guard(upstream, "attackers")
        attackers = demo.through(demo.study("attacks", users=[]), guard, "guarded-attackers")
        guard.stop()

        demo.step("the same sessions in the simulation")
        simulation.finish()
        same = [demo.same(found, simulated, "guard") for found in (attackers, honest)]
        if not all(same):
            print("\nFAILED: the guard and the simulation differ", flush=True)
            return 1
        print("every session is blocked at the query that the simulation names, and all answers are equal", flush=True)

        demo.step(f"calibration from the guard's own log (at most {LIMIT:.0%} of honest sessions blocked)")
        again = demo.folder / "recalibrated"
        # In one process: so few sessions take less time than the start of actors.
        options = ["--backend", "in-process", "--out", str(again)]
        demo.mifsim("tune", demo.recalibration(), *options, shown=True).finish()
        if not (again / "filter.toml").is_file():
            print("\nFAILED: no configuration could be certified from the log", flush=True)
            return 1
        demo.step(f"the new filter is {again / 'filter.toml'}")
        return 0


def latest_calibration(runs: Path) -> Path:
    """Return the newest run folder of ``make demo`` with a certified filter."""
    found = [path.parent for path in runs.glob(f"{STUDY}-*/filter.toml") if (path.parent / "study.toml").is_file()]
    if not found:
        raise UserError(f"{runs}/{STUDY}-*: no calibration with a filter.toml (run first: make demo)")
    return max(found, key=lambda path: path.stat().st_mtime)


def main() -> int:
    """Run the demo in ``runs/``."""
    runs = Path("runs")
    try:
        return run(latest_calibration(runs), runs / f"guard-demo-{datetime.now():%Y%m%d-%H%M%S}")
    except UserError as error:
        print(f"guard-demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
