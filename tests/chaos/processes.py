"""The processes of a run: descendants of its driver, so that other runs on the machine are not affected."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Return the ids of all descendants of a process, without its own id."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process ended meanwhile
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found, generation = [], [pid]
    while generation:
        generation = [child for child, parent in parents.items() if parent in generation]
        found += generation
    return found


def with_title(pids: list[int], title: str) -> list[int]:
    """Return the processes whose command line contains `title`, such as ``ray::ClassName`` for an actor."""
    matching = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if title in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
                matching.append(pid)
    return sorted(matching)


def kill(pids: list[int], signal_: int = signal.SIGKILL) -> None:
    """Send a signal to processes: by default SIGKILL, which leaves them no time to clean up."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_)


def alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
