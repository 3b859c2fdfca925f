"""What all tests share: a cache folder of their own, so that they neither use nor leave anything outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


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
