"""Run folders that the tests of the reports share."""

import pytest

from tests.reports.runs import write_calibration, write_simulation


@pytest.fixture(scope="session")
def certified(tmp_path_factory):
    return write_calibration(tmp_path_factory.mktemp("runs") / "certified")


@pytest.fixture(scope="session")
def uncertified(tmp_path_factory):
    return write_calibration(tmp_path_factory.mktemp("runs") / "uncertified", certified=False)


@pytest.fixture(scope="session")
def simulation(tmp_path_factory):
    return write_simulation(tmp_path_factory.mktemp("runs") / "simulation")


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A simulation without leakage scores and without snapshots."""
    return write_simulation(tmp_path_factory.mktemp("runs") / "bare", leakage=False, snapshots=False)
