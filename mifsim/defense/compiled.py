"""Compilation options of this package's kernels: numba, without fast-math, releasing the GIL."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

# No fast-math: it would allow the compiler to reorder sums by the machine's vector length. numpy's error model does not
# check divisions for zero, so that loops with a division can be vectorised. Without the GIL, sessions can run in
# parallel threads.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def inner(function: F) -> F:
    """Compile a function that is called only from compiled functions."""
    return cast(F, numba.njit(**_OPTIONS)(function))


def entry(function: F) -> F:
    """Compile a function that is called from Python, and cache the machine code on disk for later processes.

    The cached code includes all functions that the entry calls, but numba invalidates it only when the entry's own
    file changes. Therefore the functions that it calls must be in the same file; see `entry_using` for other modules.
    """
    try:
        return cast(F, numba.njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:  # neither the source's folder nor the user's cache is writable: compile in each process
        return inner(function)


def entry_using(*modules: ModuleType) -> Callable[[F], F]:
    """Return the decorator `entry` for a function that calls compiled functions of other modules.

    The function's qualified name gets a digest of the modules' sources. numba names the cache's files after it, so
    machine code that was compiled from other sources is not found.
    """

    def compiled(function: F) -> F:
        digest = hashlib.blake2b(digest_size=8)
        try:
            for module in modules:
                digest.update(inspect.getsource(module).encode())
        except OSError:  # no source, so a change could not be noticed: compile in each process
            return inner(function)
        function.__qualname__ += f"_{digest.hexdigest()}"
        return entry(function)

    return compiled
