"""The demo of the guard ends what it starts, and says what it needs. `make guard-demo` runs it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from examples import guard_demo
from examples.guard_demo import Process, processes
from mifsim.errors import UserError


@pytest.fixture(autouse=True)
def _signals() -> object:
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_processes_end_with_the_demo(error: type[BaseException]) -> None:
    program = "import time; print('listening on http://127.0.0.1:7', flush=True); time.sleep(600)"
    found: list[Process] = []

    def demo() -> None:
        with processes() as started:
            started.append(Process([sys.executable, "-c", program], shown=False))
            found.append(started[0])
            assert started[0].listening() == 7
            raise error

    with pytest.raises(error):
        demo()
    assert found[0].running.poll() == -signal.SIGTERM


def test_a_command_that_fails_is_named() -> None:
    with processes() as started:
        started.append(Process([sys.executable, "-c", "import sys; print('why'); sys.exit(2)"], shown=False))
        with pytest.raises(UserError, match=r"exit code 2:\nwhy"):
            started[0].finish()
        with pytest.raises(UserError, match="a server did not start"):
            started[0].listening()


def test_it_needs_the_calibration_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "calibrate-digits-1").mkdir(parents=True)
    assert guard_demo.main() == 2
    assert "run first: make demo" in capsys.readouterr().err
