"""What can go wrong, injected from outside: each fault returns what it hit, as evidence that it happened."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.processes import alive, below, kill, titled
from tests.chaos.stages import Place, Stage, own_ray, small_disk, small_store, two_nodes

PATIENCE_SECONDS = 60.0
"""For whom a fault is meant: it may not be there yet."""
MODEL, HOST, TRIAL = ":ModelActor", "ray::SessionHost", "ray::ReplayTrial"
"""In the titles of Ray's processes: that of a named actor has the name before its class."""
CAUSED_NOTHING = ""
"""What a fault returns that found nobody: the run was over."""


def end_model(at: Stage, rng: random.Random) -> str:
    """The model's actor dies; Ray starts it again."""
    return _end(at, lambda: at.workers(MODEL))


def end_worker(at: Stage, rng: random.Random) -> str:
    """A session host dies, or a trial of a search, whichever is there."""
    return _end(at, lambda: _some(at)[:1])


def end_writer(at: Stage, rng: random.Random) -> str:
    """A session host dies while one of its files has bytes and is not in its place yet."""
    while alive(at.driver):
        for path in at.half_written():
            if _size(path) > len(b"PAR1") and (hosts := at.workers(HOST)):
                kill(hosts)
                if path.exists():
                    return f"{_pids(hosts)} with {path.parent.name}/{path.name} half written"
                return f"{_pids(hosts)} just after a file was whole"
        time.sleep(0.0005)
    return CAUSED_NOTHING


def end_all_workers(at: Stage, rng: random.Random) -> str:
    """Model, hosts and trials die together."""
    return _end(at, lambda: [pid for title in (MODEL, HOST, TRIAL) for pid in at.workers(title)])


def end_node(at: Stage, rng: random.Random) -> str:
    """The only node dies: its raylet, and with it every worker."""
    return _end(at, lambda: at.workers("raylet/raylet"))


def end_driver(at: Stage, rng: random.Random) -> str:
    """The driver is killed: nobody marks the run as interrupted."""
    return _end(at, lambda: [at.driver])


def interrupt(at: Stage, rng: random.Random) -> str:
    """Ctrl-C."""
    if not alive(at.driver):
        return CAUSED_NOTHING
    os.kill(at.driver, signal.SIGINT)
    return "SIGINT"


def slow_host(at: Stage, rng: random.Random) -> str:
    """A host stands still for a while, as on a node that swaps."""
    return _halt(_wait_for(at, lambda: _some(at)[:1]), rng.uniform(1, 4))


def end_second_node(at: Stage, rng: random.Random) -> str:
    """A node of two dies with all that runs there; the driver is on the other one."""

    def with_actors() -> list[int]:
        remote = below(at.raylets[1])
        found = [pid for title in (MODEL, HOST, TRIAL) for pid in titled(remote, title)]
        return [at.raylets[1], *found] if found else []

    return _end(at, with_actors)


def slow_second_node(at: Stage, rng: random.Random) -> str:
    """A node of two stands still: for a short while it is slow, for a longer one the cluster takes it for dead."""
    return _halt([at.raylets[1], *below(at.raylets[1])], rng.uniform(0.3, 5))


def fill_disk(at: Stage, rng: random.Random) -> str:
    """Something else fills the disk that the run is on, until the run has stopped."""
    if not alive(at.driver):
        return CAUSED_NOTHING
    filler = at.run.parent / "filler"
    said = ""
    with filler.open("wb", buffering=0) as file:
        for piece in (2**16, 2**12):  # down to the last page
            try:
                while True:
                    file.write(bytes(piece))
            except OSError as error:
                said = str(error.strerror)
    return f"{said}, after {_size(filler)} bytes of others"


def let_spill(at: Stage, rng: random.Random) -> str:
    """Nothing but the small store; wait until something was spilled."""
    while alive(at.driver):
        if spilled := sum(_size(path) for path in at.spilled()):
            return f"{spilled} bytes spilled to disk"
        time.sleep(0.01)
    return CAUSED_NOTHING


@dataclass(frozen=True)
class Fault:
    """A fault, where it takes place, and what the run owes.

    Attributes
    ----------
    inject : callable
        From the stage and a generator to what was hit.
    place : callable
    at_random : bool
        Whether it has a moment of its own; else it waits for its own condition from the start.
    survived : bool
        Whether the run must come to its end without being resumed.
    tune : bool
        Whether a calibration is disturbed by it too.
    """

    inject: Callable[[Stage, random.Random], str]
    place: Place = own_ray
    at_random: bool = True
    survived: bool = False
    tune: bool = True


FAULTS: dict[str, Fault] = {
    "model": Fault(end_model, survived=True),
    "host or trial": Fault(end_worker, survived=True),
    "writer": Fault(end_writer, at_random=False, survived=True),
    "workers": Fault(end_all_workers),
    "node": Fault(end_node),
    "driver": Fault(end_driver),
    "interrupt": Fault(interrupt),
    "slow host": Fault(slow_host, survived=True),
    "second node": Fault(end_second_node, two_nodes, survived=True),
    "slow node": Fault(slow_second_node, two_nodes, survived=True),
    "full disk": Fault(fill_disk, small_disk),
    "spilling": Fault(let_spill, small_store, at_random=False, survived=True, tune=False),
}


def _some(at: Stage) -> list[int]:
    return at.workers(HOST) or at.workers(TRIAL)


def _end(at: Stage, whom: Callable[[], list[int]]) -> str:
    """Kill, as soon as somebody is there; nobody tidies up."""
    found = _wait_for(at, whom)
    kill(found)
    return f"killed {_pids(found)}" if found else CAUSED_NOTHING


def _wait_for(at: Stage, whom: Callable[[], list[int]]) -> list[int]:
    """Return the processes as soon as they are there; none where the run is over first."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while alive(at.driver) and time.monotonic() < deadline:
        if found := whom():
            return found
        time.sleep(0.02)
    return []


def _halt(pids: list[int], seconds: float) -> str:
    if not pids:
        return CAUSED_NOTHING
    kill(pids, signal.SIGSTOP)
    time.sleep(seconds)
    kill(pids, signal.SIGCONT)
    return f"{_pids(pids)} stood still for {seconds:.1f} s"


def _pids(pids: list[int]) -> str:
    return f"{len(pids)} processes ({', '.join(map(str, pids[:4]))}{', ...' if len(pids) > 4 else ''})"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
