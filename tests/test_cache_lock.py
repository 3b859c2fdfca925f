"""One process computes a part of the cache at a time, and a process that waits says for what."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from mifsim.cache import exclusive


def test_a_second_process_waits_until_the_first_is_done_and_says_for_what(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    order: list[str] = []

    def second() -> None:
        with exclusive(tmp_path / "new folder" / "model", "trains the same model"):
            order.append("second")

    waiting = threading.Thread(target=second)  # locks of files exclude threads as they exclude processes
    with exclusive(tmp_path / "new folder" / "model", "trains the same model"):
        waiting.start()
        while not caplog.messages:
            waiting.join(0.01)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert caplog.messages == ["waiting for another process of this machine that trains the same model"]


def test_nobody_waits_for_another_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with exclusive(tmp_path / "a", "trains the same model"), exclusive(tmp_path / "b", "trains the same model"):
        pass
    assert not caplog.messages
