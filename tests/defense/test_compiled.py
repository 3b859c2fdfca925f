"""The cache of machine code is renewed when the sources of the compiled code change."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from numba.core.dispatcher import Dispatcher

import mifsim.defense
from mifsim.defense.compiled import entry, inner, inner_named

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


def test_a_function_in_a_function_needs_a_name() -> None:
    def made(x: float) -> float:
        return x

    with pytest.raises(TypeError, match=r"made: a compiled function in a function needs a name: use inner_named"):
        inner(made)
    with pytest.raises(TypeError, match=r"made: an entry must not be in a function"):
        entry(made)
    assert inner_named("halved")(made)(4.0) == 4.0


def _compiled_functions() -> set[Any]:
    """Return all compiled functions of the package, and those that they use."""
    found: set[Any] = set()

    def add(value: object) -> None:
        if isinstance(value, Dispatcher) and value not in found:
            found.add(value)
            used = inspect.getclosurevars(value.py_func)
            for inside in (*used.nonlocals.values(), *used.globals.values()):
                add(inside)

    for module in pkgutil.walk_packages(mifsim.defense.__path__, "mifsim.defense."):
        for value in vars(importlib.import_module(module.name)).values():
            add(value)
    return found


def test_no_two_compiled_functions_have_the_same_name() -> None:
    """Machine code from two entries of the cache is linked by name; see `inner`."""
    names = Counter((function.py_func.__module__, function.py_func.__qualname__) for function in _compiled_functions())
    assert len(names) > 50
    assert ("mifsim.defense.ssim_hash.windowed", "compare_gaussian") in names
    assert [name for name, count in names.items() if count > 1] == []
