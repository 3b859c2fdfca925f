"""A plug-in for the tests of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mifsim.plugins import unload_plugins


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    """A copy of the example plug-in under another name; all plug-ins are unloaded after the test."""
    (tmp_path / "own.py").write_bytes((Path(__file__).parents[2] / "examples" / "quota.py").read_bytes())
    yield tmp_path / "own.py"
    unload_plugins()
