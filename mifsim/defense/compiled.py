"""Compilation options of this package's kernels: numba, without fast-math, releasing the GIL."""

from __future__ import annotations

from collections.abc import Callable
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
    file changes. Therefore an entry and the functions it calls must be in the same file.
    """
    try:
        return cast(F, numba.njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:  # neither the source's folder nor the user's cache is writable: compile in each process
        return inner(function)
