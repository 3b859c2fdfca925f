"""Failed and long tests are named when they end, not only in the summary."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.announcing import LONG_SECONDS, Announcer, line

pytest_plugins = ["pytester"]


def test_a_failure_is_named_at_once_with_its_reason(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    pytester.makeconftest(
        "from tests.announcing import Announcer\n"
        "def pytest_configure(config):\n"
        "    config.pluginmanager.register(Announcer(config))\n"
    )
    pytester.makepyfile("def test_wrong():\n    assert 1 == 2, 'one is not two'\n\ndef test_right():\n    pass\n")
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    lines = result.stdout.lines
    place = next(number for number, text in enumerate(lines) if text.startswith("FAILED "))
    assert "test_wrong (call, 0 s): AssertionError: one is not two" in lines[place]
    assert place < next(number for number, text in enumerate(lines) if "FAILURES" in text)
    assert not any("test_right" in text for text in lines)


def test_only_failed_and_long_phases_are_printed(pytestconfig: pytest.Config) -> None:
    printed: list[str] = []

    class Terminal:
        write = staticmethod(printed.append)

    class Plugins:
        def get_plugin(self, name: str) -> Terminal:
            assert name == "terminalreporter"
            return Terminal()

    class Config:
        pluginmanager = Plugins()

    announcer = Announcer(Config())  # type: ignore[arg-type]
    for duration in (0.1, LONG_SECONDS - 0.1, LONG_SECONDS + 0.6):
        report = pytest.TestReport("a::b", ("a", 1, "b"), {}, "passed", None, "setup", duration=duration)
        announcer.pytest_runtest_logreport(report)
    assert printed == [f"\n{line(report)}\n"] == [f"\nPASSED a::b (setup, {LONG_SECONDS + 0.6:.0f} s)\n"]
