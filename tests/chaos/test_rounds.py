"""The short form of the chaos: one round each of the faults that tidy up least. `make chaos` runs the long one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import tomli_w

from mifsim.simulation import simulate
from tests.chaos.processes import below, titled
from tests.chaos.rounds import CHANGES, FAULTS, assert_same_rows, disturbed
from tests.small import small_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("chaos") / "study.toml"
    file.write_text(tomli_w.dumps(small_study(**CHANGES).to_toml()))
    return file


@pytest.fixture(scope="module")
def calm(study: Path) -> Path:
    """The run that nothing happens to."""
    return simulate(small_study(**CHANGES), study.parent / "calm", backend="in-process")


@pytest.mark.parametrize(("fault", "moment"), [("workers", 1.0), ("node", 1.5), ("driver", 2.0)])
def test_the_rows_are_those_of_an_undisturbed_run(
    fault: str, moment: float, study: Path, calm: Path, tmp_path: Path
) -> None:
    disturbed(study, tmp_path / "run", FAULTS[fault], moment)
    assert_same_rows(calm, tmp_path / "run")


def test_processes_are_found_below_their_own_driver() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 30; true"])
    try:
        found = below(os.getpid())
        assert child.pid in found
        assert child.pid in titled(found, "sleep 30")
        assert os.getpid() not in found
    finally:
        for pid in [*below(child.pid), child.pid]:
            os.kill(pid, 9)
        child.wait()
