"""Compilation options of this package's kernels: numba, without fast-math, releasing the GIL."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar, cast

import numba

from mifsim.defense.shared_cache import lock_cache

F = TypeVar("F", bound=Callable[..., Any])

# No fast-math: it would allow the compiler to reorder sums by the machine's vector length. numpy's error model does not
# check divisions for zero, so that loops with a division can be vectorised. Without the GIL, sessions can run in
# parallel threads.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def inner(function: F) -> F:
    """Compile a function that is called only from compiled functions.

    Raises
    ------
    TypeError
        If the function is defined in another function; see `inner_named`.
    """
    # numba names the machine code of a function after its qualified name, its arguments and a counter of the process.
    # Functions that a factory creates have the same qualified name. If two processes compile two of them with the same
    # number and cache them in different entries, a third process that loads both entries uses one for both, silently.
    if "<locals>" in function.__qualname__:
        raise TypeError(f"{function.__qualname__}: a compiled function in a function needs a name: use inner_named")
    return cast(F, numba.njit(**_OPTIONS)(function))


def inner_named(name: str) -> Callable[[F], F]:
    """Return the decorator `inner` for a function in a function, with a name that no other one of the module has."""

    def compiled(function: F) -> F:
        function.__qualname__ = name
        return inner(function)

    return compiled


def entry(function: F) -> F:
    """Compile a function that is called from Python, and cache the machine code on disk for later processes.

    Several processes may write to the cache at the same time; see `shared_cache`.

    The cached code includes all functions that the entry calls, but numba invalidates it only when the entry's own
    file changes. Therefore the functions that it calls must be in the same file; see `entry_using` for other modules.
    """
    if "<locals>" in function.__qualname__:
        raise TypeError(f"{function.__qualname__}: an entry must not be in a function (see inner)")
    try:
        compiled = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither the source's folder nor the user's cache is writable: compile in each process
        return inner(function)
    lock_cache(compiled)
    return cast(F, compiled)


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
