"""How this room compiles: numba, without fast-math, without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

# No fast-math: it would let a sum be reordered by the machine's vector length. With numpy's error model a
# division does not branch on zero, so that loops with one are vectorised. Without the lock, sessions may
# run in threads.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def inner(function: F) -> F:
    """Compile a function that only compiled functions call."""
    return cast(F, numba.njit(**_OPTIONS)(function))


def entry(function: F) -> F:
    """Compile a function that Python calls, and keep the machine code on disk for the next process.

    The kept code holds all that the function calls, but numba only looks whether the function's own file has
    changed: an entry and what it calls belong in one file.
    """
    try:
        return cast(F, numba.njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:  # neither the source's folder nor the user's cache can be written: compile in each process
        return inner(function)
