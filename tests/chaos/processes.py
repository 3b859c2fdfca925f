"""The processes of a run, found below its driver: other runs on the machine are none of ours."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def below(pid: int) -> list[int]:
    """Return all processes that descend from one, itself left out."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found, front = [], [pid]
    while front:
        front = [child for child, parent in parents.items() if parent in front]
        found += front
    return found


def titled(pids: list[int], title: str) -> list[int]:
    """Return those processes whose command line contains a text: Ray calls an actor's ``ray::ClassName``."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if title in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
                found.append(pid)
    return sorted(found)


def kill(pids: list[int], signal_: int = signal.SIGKILL) -> None:
    """End processes at once, with no chance to tidy up; or send them another signal."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_)


def alive(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
