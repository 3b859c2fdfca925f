"""Configuration of all tests: their distribution over processes, one cache folder, one local Ray, no deadlines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# No deadline: compiled functions take long at their first call, and these tests do not measure time.
settings.register_profile("mifsim", deadline=None)
settings.load_profile("mifsim")

# By default Ray's workers have a low priority, so that the tests of other processes would stop them on a few CPUs.
os.environ.setdefault("RAY_worker_niceness", "0")
# Some test files import keras before mifsim does: this process would compute other last bits than its session hosts.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes of ``-n auto``: one more than CPUs, because tests of Ray mostly wait."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cpus + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return the distribution of tests for ``--dist loadfile``; None: xdist's own."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.scheduling import LongestFileFirst

    return LongestFileFirst(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Name failed and long tests at once, in the process that prints: a run that is stopped shows no summary."""
    if not hasattr(config, "workerinput"):
        from tests.announcing import Announcer

        config.pluginmanager.register(Announcer(config))


@pytest.fixture(scope="session", autouse=True)
def _temporary_cache(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Use an empty cache folder; parallel test processes share trained models and prepared images."""
    folder = tmp_path_factory.mktemp("cache")
    if hasattr(pytestconfig, "workerinput"):
        for name in ("models", "data"):
            shared = tmp_path_factory.getbasetemp().parent / f"shared-{name}"
            shared.mkdir(exist_ok=True)
            (folder / name).symlink_to(shared, target_is_directory=True)
    previous = os.environ.get("MIFSIM_CACHE_DIR")
    os.environ["MIFSIM_CACHE_DIR"] = str(folder)
    yield folder
    if previous is None:
        del os.environ["MIFSIM_CACHE_DIR"]
    else:
        os.environ["MIFSIM_CACHE_DIR"] = previous


@pytest.fixture(scope="module")
def local_ray() -> None:
    """Connect this process to a local Ray, unless it is; later test files use it, too, and it ends with the process.

    Starting Ray takes longer than most tests. A test that needs another cluster shuts this one down.
    """
    from mifsim.server.ray.cluster import connect

    connect(None)


def pytest_sessionfinish() -> None:
    """End the Ray of `local_ray`; parallel processes end without Python's clean-up."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
