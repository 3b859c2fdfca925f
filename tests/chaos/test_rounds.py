"""The short form of the chaos: one round each of the faults that tidy up least. `make chaos` runs the long one."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from mifsim.run.simulate import simulate
from tests.chaos.faults import CAUSED_NOTHING, FAULTS
from tests.chaos.processes import alive, below, titled
from tests.chaos.rounds import SIMULATE, Calm, disturbed
from tests.small import small_study


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """The run that nothing happens to, in one process."""
    folder = tmp_path_factory.mktemp("chaos")
    study = small_study(**SIMULATE)
    study.save(folder / "study.toml")
    run = simulate(study, folder / "calm", backend="in-process")
    cache = Path(os.environ["MIFSIM_CACHE_DIR"])
    assert isinstance(run, Path)
    return Calm("simulate", folder / "study.toml", run, cache)


@pytest.mark.parametrize(("fault", "fraction"), [("driver", 0.2), ("writer", 0.0), ("second node", 0.1)])
def test_the_rows_are_those_of_an_undisturbed_run(fault: str, fraction: float, calm: Calm, tmp_path: Path) -> None:
    found = disturbed(calm, FAULTS[fault], fraction, tmp_path / "round", random.Random(0))
    assert found.hit != CAUSED_NOTHING


def test_a_full_disk_stops_a_run_that_is_then_resumed(calm: Calm, tmp_path: Path) -> None:
    try:
        found = disturbed(calm, FAULTS["full disk"], 0.1, tmp_path / "round", random.Random(0))
    except PermissionError as error:
        pytest.skip(f"takes root: {error}")
    assert found.hit.startswith("No space left on device")
    assert found.resumes == 1
    assert "No space left on device" in (log := (tmp_path / "round" / "log").read_text())
    assert "resume with: mifsim simulate --resume" in log


def test_processes_are_found_below_their_own_driver() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 30; true"])
    try:
        found = below(os.getpid())
        assert child.pid in found
        assert child.pid in titled(found, "sleep 30")
        assert os.getpid() not in found
        assert alive(child.pid)
    finally:
        for pid in [*below(child.pid), child.pid]:
            os.kill(pid, 9)
        child.wait()
    assert not alive(child.pid)
