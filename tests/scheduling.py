"""The order in which parallel test processes take the test files: those that take long first.

pytest-xdist gives each process one file at a time. If a file that takes a minute comes last, the other processes wait
for it. xdist alone takes the files with most tests first, but here those with few tests take longest: each is a
complete run.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from xdist.scheduler import LoadScopeScheduling

LOCAL_RAY = (
    "tests/run/test_logs.py",
    "tests/server/ray/test_simulate_on_ray.py",
    "tests/tuning/test_leave_out_actors.py",
    "tests/tuning/test_search.py",
    "tests/tuning/test_tune.py",
)
"""Files whose tests use the fixture `local_ray`: one process takes them all, because it starts Ray only once."""

FIRST = (
    *LOCAL_RAY,
    "tests/chaos/",
    "tests/reports/test_paper.py",
    "tests/examples/",
    "tests/tuning/test_bench.py",
    "tests/cli/",
    "tests/server/ray/",
    "tests/victims/",
    "tests/tuning/",
    "tests/run/",
    "tests/test_security.py",
    "tests/networks/",
    "tests/tables/",
    "tests/clients/",
    "tests/guard/",
)
"""Beginnings of the names of files that take long, in the order in which they start; all others follow."""


class LongestFirst(OrderedDict[str, Any]):
    """The files that no process has taken yet."""

    def popitem(self, last: bool = True) -> tuple[str, Any]:
        """Remove and return the file that takes longest; among those of the same rank, the one that was added first."""
        name = min(self, key=rank)
        return name, self.pop(name)


def rank(name: str) -> int:
    """Return the place of a file in `FIRST`."""
    return next((place for place, start in enumerate(FIRST) if name.startswith(start)), len(FIRST))


def unit(nodeid: str) -> str:
    """Return the name of the unit of work that a test belongs to, which one process takes as a whole."""
    name = nodeid.partition("::")[0]
    return LOCAL_RAY[0] if name in LOCAL_RAY else name


class LongestFileFirst(LoadScopeScheduling):
    """Distribution of files as with ``--dist loadfile``, with those of `LOCAL_RAY` as one file."""

    def __init__(self, config: Any, log: Any = None) -> None:
        super().__init__(config, log)
        self.workqueue = LongestFirst()

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)
