"""One local Ray for all tests of this room (starting one takes longer than they do), and a calibration without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mifsim.plugins import register
from mifsim.registry import registry
from mifsim.study import Study
from tests.tuning.kinds import KINDS
from tests.tuning.studies import Formula, Spoilt, digits, formula_here, formula_victim, serial_search


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    import ray

    from mifsim.server.ray.cluster import connect

    started_here = connect(None)
    yield
    if started_here:
        ray.shutdown()


@pytest.fixture
def calibrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Calibrate with a formula for a victim and without Ray; the run folder is named ``run`` unless told otherwise."""
    from tuning import tune as calibration

    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(calibration, "load_inputs", lambda study: (digits(study), formula_victim(tmp_path)))
    monkeypatch.setattr(calibration, "make_backend", lambda *where: Formula())
    monkeypatch.setattr(calibration, "model_here", formula_here)
    monkeypatch.setattr("tuning.search.search", serial_search)

    def run(study: Study, name: str = "run") -> Path:
        path = calibration.tune(study, tmp_path / name)
        assert isinstance(path, Path)
        return path

    return run


@pytest.fixture
def spoilt() -> Iterator[None]:
    """Let studies have users that send what is no image."""
    register("users", "spoilt")(Spoilt)
    yield
    registry("users").forget(Spoilt.__module__)


@pytest.fixture
def kinds() -> Iterator[None]:
    """Let studies have the detectors of `tests.tuning.kinds`."""
    for cls in KINDS:
        register("detectors", cls.kind)(cls)
    yield
    registry("detectors").forget(KINDS[0].__module__)
