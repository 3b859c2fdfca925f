"""Fixtures of the calibration tests: a calibration without Ray, and more clients and detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mifsim.data.base import DataSet
from mifsim.plugins import register
from mifsim.registry import registry
from mifsim.run.fits import fit_detectors
from mifsim.study import Study
from mifsim.victims import Victim
from tests.tuning.kinds import KINDS
from tests.tuning.studies import (
    FormulaBackend,
    InvalidImageUser,
    digits,
    formula_model,
    formula_victim,
    serial_calibrations,
    serial_search,
)


@pytest.fixture
def calibrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that calibrates a study without Ray, with a formula as the victim.

    It takes the study and a name for the run folder, and returns the path of the run folder.
    """
    from tuning import tune as calibration

    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "cache"))

    def inputs(study: Study) -> tuple[Study, DataSet, Victim]:
        data = digits(study)
        return fit_detectors(study, data), data, formula_victim(tmp_path)

    monkeypatch.setattr(calibration, "load_inputs", inputs)
    monkeypatch.setattr(calibration, "make_backend", lambda *where: FormulaBackend())
    monkeypatch.setattr("tuning.calibration.model_here", formula_model)
    monkeypatch.setattr("tuning.search.search", serial_search)
    monkeypatch.setattr("tuning.leave_out_actors.calibrate_all", serial_calibrations)

    def run(study: Study, name: str = "run") -> Path:
        path = calibration.tune(study, tmp_path / name)
        assert isinstance(path, Path)
        return path

    return run


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty cache folder."""
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def invalid_image_users() -> Iterator[None]:
    """Register the user ``spoilt``, which also sends invalid images."""
    register("users", "spoilt")(InvalidImageUser)
    yield
    registry("users").forget(InvalidImageUser.__module__)


@pytest.fixture
def kinds() -> Iterator[None]:
    """Register the detectors of `tests.tuning.kinds`."""
    for cls in KINDS:
        register("detectors", cls.kind)(cls)
    yield
    registry("detectors").forget(KINDS[0].__module__)
