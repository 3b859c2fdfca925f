"""Locks around numba's cache of machine code, so that several processes can write to it at the same time.

numba numbers the files of a function's signatures: it reads an index, takes the next number, writes the index, and
then the machine code. Without a lock, two processes that compile the function for different signatures at the same time
take the same number, and the index that remains names the machine code of the wrong signature. The session hosts of a
run and the workers of a guard are such processes, when they start on a machine without a cache.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: numba's cache as it is
    fcntl = None  # type: ignore[assignment]


class LockedFiles:
    """The files of one function in numba's cache: each access holds a lock that is shared with other processes.

    Parameters
    ----------
    files : numba.core.caching.IndexDataCacheFile
        The same files without a lock.
    """

    def __init__(self, files: Any) -> None:
        self._files = files
        self._lock = f"{files._index_path}.lock"

    def load(self, key: Any) -> Any:
        """Return the data of a signature, or None."""
        # numba writes the index before the data. Between the two, the index may name a file of older sources.
        with _locked(self._lock, exclusive=False):
            return self._files.load(key)

    def save(self, key: Any, data: Any) -> None:
        """Store the data of a signature."""
        with _locked(self._lock, exclusive=True):
            self._files.save(key, data)

    def flush(self) -> None:
        """Empty the index."""
        with _locked(self._lock, exclusive=True):
            self._files.flush()


def lock_cache(function: Any) -> None:
    """Lock the cache of a compiled function during each access; do nothing if numba has changed its attributes."""
    cache = getattr(function, "_cache", None)
    files = getattr(cache, "_cache_file", None)
    if fcntl is not None and hasattr(files, "_index_path"):
        cache._cache_file = LockedFiles(files)  # type: ignore[union-attr]


@contextlib.contextmanager
def _locked(path: str, exclusive: bool) -> Iterator[None]:
    """Hold a lock on a file, which is created; hold none if the folder is not writable or files cannot be locked."""
    handle = -1
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
    try:
        yield
    finally:
        if handle >= 0:
            os.close(handle)  # releases the lock
