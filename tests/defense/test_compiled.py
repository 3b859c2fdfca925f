"""The cache of machine code is renewed when the sources of the compiled code change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLED = """
from mifsim.defense.compiled import inner

@inner
def scaled(x):
    return {factor} * x
"""
ENTRY = """
from mifsim.defense.compiled import entry_using
import called

scaled = called.scaled

@entry_using(called)
def run(x):
    return scaled(x) + 1

def hits():
    return run(5), sum(run.stats.cache_hits.values())
"""


@pytest.fixture
def run(tmp_path: Path):
    """Return a function that calls the entry in a new process, and returns its result and the cache hits."""
    (tmp_path / "caller.py").write_text(ENTRY)

    def call(factor: int) -> list[int]:
        (tmp_path / "called.py").write_text(CALLED.format(factor=factor))
        paths = [str(tmp_path), *sys.path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("NUMBA_CACHE_DIR", None)
        command = [sys.executable, "-c", "import caller; print(*caller.hits())"]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return [int(word) for word in found.stdout.split()]

    return call


def test_a_change_of_a_called_module_recompiles_the_entry(run) -> None:
    assert run(2) == [11, 0]
    assert run(2) == [11, 1]
    assert run(3) == [16, 0]
    assert run(2) == [11, 1]
