"""Faults that are injected from outside a run; each returns a description of its effect."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.processes import alive, descendants, kill, with_title
from tests.chaos.setups import Setup, Target, local_ray, small_disk, small_store, two_nodes

WAIT_SECONDS = 60.0
"""How long a fault waits until the processes that it affects have started."""
MODEL, HOST, TRIAL = ":ModelActor", "ray::SessionHost", "ray::ReplayTrial"
"""Parts of the titles of Ray's processes; the title of a named actor has the name before the class."""
NO_EFFECT = ""
"""Result of a fault that affected no process, because the run had ended."""


def kill_model(target: Target, rng: random.Random) -> str:
    """Kill the model's actor, which Ray then restarts."""
    return _kill(target, lambda: target.workers(MODEL))


def kill_worker(target: Target, rng: random.Random) -> str:
    """Kill a session host; if none runs, kill a trial of a search."""
    return _kill(target, lambda: _hosts_or_trials(target)[:1])


def kill_writer(target: Target, rng: random.Random) -> str:
    """Kill a session host while one of its files is partially written."""
    while alive(target.driver):
        for path in target.partial_files():
            if _size(path) > len(b"PAR1") and (hosts := target.workers(HOST)):
                kill(hosts)
                if path.exists():
                    return f"{_pids(hosts)} with {path.parent.name}/{path.name} partially written"
                return f"{_pids(hosts)} just after a file was complete"
        time.sleep(0.0005)
    return NO_EFFECT


def kill_all_workers(target: Target, rng: random.Random) -> str:
    """Kill model, hosts and trials together."""
    return _kill(target, lambda: [pid for title in (MODEL, HOST, TRIAL) for pid in target.workers(title)])


def kill_node(target: Target, rng: random.Random) -> str:
    """Kill the raylet of the only node, and with it every worker."""
    return _kill(target, lambda: target.workers("raylet/raylet"))


def kill_driver(target: Target, rng: random.Random) -> str:
    """Kill the driver, which then cannot mark the run as interrupted."""
    return _kill(target, lambda: [target.driver])


def interrupt(target: Target, rng: random.Random) -> str:
    """Interrupt the driver, as Ctrl-C does."""
    if not alive(target.driver):
        return NO_EFFECT
    os.kill(target.driver, signal.SIGINT)
    return "SIGINT"


def pause_host(target: Target, rng: random.Random) -> str:
    """Pause a host or a trial for some seconds, as on a node that swaps memory."""
    return _pause(_wait_for(target, lambda: _hosts_or_trials(target)[:1]), rng.uniform(1, 4))


def kill_second_node(target: Target, rng: random.Random) -> str:
    """Kill one of two nodes with all its actors; the driver is on the other node."""

    def node_with_actors() -> list[int]:
        processes = descendants(target.raylets[1])
        actors = [pid for title in (MODEL, HOST, TRIAL) for pid in with_title(processes, title)]
        return [target.raylets[1], *actors] if actors else []

    return _kill(target, node_with_actors)


def pause_second_node(target: Target, rng: random.Random) -> str:
    """Pause one of two nodes: a short pause makes it slow, and after a long pause the cluster declares it dead."""
    return _pause([target.raylets[1], *descendants(target.raylets[1])], rng.uniform(0.3, 5))


def fill_disk(target: Target, rng: random.Random) -> str:
    """Fill the disk of the run with another file; the round removes this file when the run has stopped."""
    if not alive(target.driver):
        return NO_EFFECT
    filler = target.run.parent / "filler"
    message = ""
    with filler.open("wb", buffering=0) as file:
        for block_bytes in (2**16, 2**12):  # the small blocks fill the rest
            try:
                while True:
                    file.write(bytes(block_bytes))
            except OSError as error:
                message = str(error.strerror)
    return f"{message}, after {_size(filler)} bytes of other data"


def wait_for_spilling(target: Target, rng: random.Random) -> str:
    """Wait until the small object store has spilled objects to disk; there is no other fault."""
    while alive(target.driver):
        if spilled := sum(_size(path) for path in target.spilled()):
            return f"{spilled} bytes spilled to disk"
        time.sleep(0.01)
    return NO_EFFECT


@dataclass(frozen=True)
class Fault:
    """A fault, the environment of the run, and the required outcome.

    Attributes
    ----------
    inject : callable
        Injects the fault into a target; returns a description of its effect.
    setup : callable
        Environment of the run.
    at_random : bool
        Whether the fault is injected at a random moment. Otherwise it starts with the run and waits for a condition.
    survived : bool
        Whether the run must complete without being resumed.
    tune : bool
        Whether the fault is also injected into calibrations.
    """

    inject: Callable[[Target, random.Random], str]
    setup: Setup = local_ray
    at_random: bool = True
    survived: bool = False
    tune: bool = True


FAULTS: dict[str, Fault] = {
    "model": Fault(kill_model, survived=True),
    "host or trial": Fault(kill_worker, survived=True),
    "writer": Fault(kill_writer, at_random=False, survived=True),
    "workers": Fault(kill_all_workers),
    "node": Fault(kill_node),
    "driver": Fault(kill_driver),
    "interrupt": Fault(interrupt),
    "slow host": Fault(pause_host, survived=True),
    "second node": Fault(kill_second_node, two_nodes, survived=True),
    "slow node": Fault(pause_second_node, two_nodes, survived=True),
    "full disk": Fault(fill_disk, small_disk),
    "spilling": Fault(wait_for_spilling, small_store, at_random=False, survived=True, tune=False),
}


def _hosts_or_trials(target: Target) -> list[int]:
    return target.workers(HOST) or target.workers(TRIAL)


def _kill(target: Target, find: Callable[[], list[int]]) -> str:
    """Kill the processes as soon as they exist; they cannot clean up."""
    pids = _wait_for(target, find)
    kill(pids)
    return f"killed {_pids(pids)}" if pids else NO_EFFECT


def _wait_for(target: Target, find: Callable[[], list[int]]) -> list[int]:
    """Return the processes as soon as they exist; return an empty list if the run ends first."""
    deadline = time.monotonic() + WAIT_SECONDS
    while alive(target.driver) and time.monotonic() < deadline:
        if pids := find():
            return pids
        time.sleep(0.02)
    return []


def _pause(pids: list[int], seconds: float) -> str:
    if not pids:
        return NO_EFFECT
    kill(pids, signal.SIGSTOP)
    time.sleep(seconds)
    kill(pids, signal.SIGCONT)
    return f"{_pids(pids)} paused for {seconds:.1f} s"


def _pids(pids: list[int]) -> str:
    return f"{len(pids)} processes ({', '.join(map(str, pids[:4]))}{', ...' if len(pids) > 4 else ''})"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
