"""Parallel test processes take long files first, and one of them takes all files that share a local Ray."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scheduling import FIRST, LOCAL_RAY, LongestFirst, unit

ROOT = Path(__file__).parent.parent


def test_files_are_taken_in_the_order_of_their_ranks_and_then_as_added() -> None:
    queue = LongestFirst()
    for name in ("mifsim/cache.py", "tests/guard/test_app.py", "tests/chaos/test_rounds.py", "tests/watch/test_log.py"):
        queue[name] = {}
    assert [queue.popitem(last=False)[0] for _ in range(4)] == [
        "tests/chaos/test_rounds.py", "tests/guard/test_app.py", "mifsim/cache.py", "tests/watch/test_log.py"
    ]  # fmt: skip
    assert not queue


@pytest.mark.parametrize("name", FIRST)
def test_every_file_that_is_started_first_exists(name: str) -> None:
    assert (ROOT / name).exists()


def test_the_files_that_share_a_local_ray_are_those_that_use_the_fixture() -> None:
    tests = (path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__))
    using = {str(path.relative_to(ROOT)) for path in tests if re.search(r"\blocal_ray\b", path.read_text())}
    assert using == set(LOCAL_RAY)


def test_the_files_that_share_a_local_ray_are_one_unit_of_work() -> None:
    assert len({unit(f"{name}::test") for name in LOCAL_RAY}) == 1
    assert unit("tests/cli/test_cli.py::TestA::test[a::b]") == "tests/cli/test_cli.py"
