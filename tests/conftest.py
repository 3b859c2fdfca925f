"""Configuration of all tests: no deadline in hypothesis, and a temporary cache folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: compiled functions take long at their first call, and these tests do not measure time.
settings.register_profile("mifsim", deadline=None)
settings.load_profile("mifsim")


@pytest.fixture(scope="session", autouse=True)
def _temporary_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    previous = os.environ.get("MIFSIM_CACHE_DIR")
    os.environ["MIFSIM_CACHE_DIR"] = str(folder)
    yield folder
    if previous is None:
        del os.environ["MIFSIM_CACHE_DIR"]
    else:
        os.environ["MIFSIM_CACHE_DIR"] = previous
