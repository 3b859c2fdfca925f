"""The processes of a run, found as descendants of its driver, so that other runs on the machine are left alone."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def below(pid: int) -> list[int]:
    """Return all descendants of a process, without itself."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process ended meanwhile
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    descendants, generation = [], [pid]
    while generation:
        generation = [child for child, parent in parents.items() if parent in generation]
        descendants += generation
    return descendants


def titled(pids: list[int], title: str) -> list[int]:
    """Return the processes whose command line contains `title`; an actor's process is titled ``ray::ClassName``."""
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
