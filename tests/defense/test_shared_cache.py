"""Several processes write to the same cache of machine code."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from numba.core.caching import IndexDataCacheFile

from mifsim.defense import images
from mifsim.defense.compiled import inner
from mifsim.defense.shared_cache import LockedFiles, lock_cache


def files_of(folder: Path) -> IndexDataCacheFile:
    """Return numba's files of one function; each process has its own object for the same files."""
    return IndexDataCacheFile(str(folder), "function-1.py311", ("stamp", 1))


def test_signatures_that_are_stored_at_the_same_time_keep_their_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flock excludes threads as it excludes processes, because each access opens the lock's file anew."""
    read_index = IndexDataCacheFile._load_index

    def read_index_slowly(self: IndexDataCacheFile) -> dict[str, str]:
        found = read_index(self)
        time.sleep(0.02)  # long enough for all others to read the same index, if they may
        return found

    monkeypatch.setattr(IndexDataCacheFile, "_load_index", read_index_slowly)
    signatures = [f"signature {number}" for number in range(8)]
    with ThreadPoolExecutor(len(signatures)) as pool:
        list(pool.map(lambda key: LockedFiles(files_of(tmp_path)).save(key, f"code of {key}"), signatures))
    reader = LockedFiles(files_of(tmp_path))
    assert [reader.load(key) for key in signatures] == [f"code of {key}" for key in signatures]
    reader.flush()
    assert reader.load(signatures[0]) is None


def test_a_cache_that_cannot_be_locked_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files_of(tmp_path).save("signature", "code")

    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr("mifsim.defense.shared_cache.os.open", refused)
    assert LockedFiles(files_of(tmp_path)).load("signature") == "code"


def test_the_caches_of_compiled_functions_are_locked() -> None:
    """Fails if numba renames the attributes that `lock_cache` replaces."""
    assert isinstance(images._mean._cache._cache_file, LockedFiles)


def doubled(x: float) -> float:
    return 2 * x


def test_a_function_without_a_cache_is_left_as_it_is() -> None:
    function = inner(doubled)
    lock_cache(function)
    assert not hasattr(function._cache, "_cache_file")
