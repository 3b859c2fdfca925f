"""Lines about failed and long tests, printed when each test ends: a run that is stopped has no summary."""

from __future__ import annotations

from typing import Any

import pytest

LONG_SECONDS = 60.0
"""A phase of a test that takes longer is named, although the test passed."""


class Announcer:
    """Plugin that names a test when it fails or takes long.

    Parameters
    ----------
    config : pytest.Config
        The configuration of the process that prints.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print one line if the phase of the test failed or took long."""
        if not report.failed and report.duration < LONG_SECONDS:
            return
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.write(f"\n{line(report)}\n")


def line(report: pytest.TestReport) -> str:
    """Return the outcome, the name, the phase and the duration of a test, and why it failed."""
    text = f"{report.outcome.upper()} {report.nodeid} ({report.when}, {report.duration:.0f} s)"
    crash = getattr(report.longrepr, "reprcrash", None)
    if report.failed and crash is not None:
        text += f": {crash.message.splitlines()[0]}"
    return text
