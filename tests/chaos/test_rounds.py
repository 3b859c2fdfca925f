"""A round of fault injection with a killed driver, and slow ones with other faults; `make chaos` runs many."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from mifsim.run.simulate import simulate
from tests.chaos.faults import FAULTS, NO_EFFECT
from tests.chaos.processes import alive, descendants, with_title
from tests.chaos.rounds import SIMULATE, Baseline, run_with_fault
from tests.small import small_study


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    """The run without faults, in one process."""
    folder = tmp_path_factory.mktemp("chaos")
    study = small_study(**SIMULATE, leakage={"enabled": False})  # each driver would import TensorFlow for it
    study.save(folder / "study.toml")
    run = simulate(study, folder / "baseline", backend="in-process")
    cache = Path(os.environ["MIFSIM_CACHE_DIR"])
    assert isinstance(run, Path)
    return Baseline("simulate", folder / "study.toml", run, cache)


@pytest.mark.parametrize(
    ("fault", "fraction"),
    [
        ("driver", 0.2),
        pytest.param("second node", 0.1, marks=pytest.mark.slow),
        pytest.param("writer", 0.0, marks=pytest.mark.slow),
    ],
)
def test_the_rows_equal_those_of_a_run_without_faults(
    fault: str, fraction: float, baseline: Baseline, tmp_path: Path
) -> None:
    result = run_with_fault(baseline, FAULTS[fault], fraction, tmp_path / "round", random.Random(0))
    assert result.effect != NO_EFFECT


@pytest.mark.slow
def test_a_run_that_a_full_disk_has_stopped_can_be_resumed(baseline: Baseline, tmp_path: Path) -> None:
    try:
        result = run_with_fault(baseline, FAULTS["full disk"], 0.1, tmp_path / "round", random.Random(0))
    except PermissionError as error:
        pytest.skip(f"needs root: {error}")
    assert result.effect.startswith("No space left on device")
    assert result.resumes == 1
    assert "No space left on device" in (log := (tmp_path / "round" / "log").read_text())
    assert "resume with: mifsim simulate --resume" in log


def test_descendants_of_a_process_are_found() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 30; true"])
    try:
        pids = descendants(os.getpid())
        assert child.pid in pids
        assert child.pid in with_title(pids, "sleep 30")
        assert os.getpid() not in pids
        assert alive(child.pid)
    finally:
        for pid in [*descendants(child.pid), child.pid]:
            os.kill(pid, 9)
        child.wait()
    assert not alive(child.pid)
