"""What all tests share: a cache folder of their own, so that they neither use nor leave anything outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: kernels compile at their first call, and nothing here asserts a time.
settings.register_profile("mifsim", deadline=None)
settings.load_profile("mifsim")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("MIFSIM_CACHE_DIR")
    os.environ["MIFSIM_CACHE_DIR"] = str(folder)
    yield folder
    if before is None:
        del os.environ["MIFSIM_CACHE_DIR"]
    else:
        os.environ["MIFSIM_CACHE_DIR"] = before
