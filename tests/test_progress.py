"""Progress displays: the ETA, which is unknown at the start of a run, and durations as text."""

from __future__ import annotations

import pytest

from mifsim import progress
from mifsim.progress import Bar, duration


class Clock:
    """A clock that shows the time that a test sets."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_the_eta_is_the_remaining_work_at_the_average_rate(clock: Clock) -> None:
    bar = Bar("running", 10, "sessions", work=1000.0)
    assert bar.eta() == "unknown"
    clock.now += 20
    bar.update(1, work=250.0)
    assert bar.eta() == "1 min 0 s"  # 750 left at 12.5 per second
    # A resumed run: 600 of 1000 were done before, and now 100 of the remaining 400.
    bar.update(7, work=100.0, before=600.0)
    assert bar.eta() == "1 min 0 s"  # 300 left at 5 per second


def test_the_eta_is_unknown_until_enough_work_or_time_has_passed(clock: Clock) -> None:
    bar = Bar("running", 10, "sessions", work=1000.0)
    clock.now += 30
    bar.update(0, work=4.0)
    assert bar.eta() == "unknown"  # not "2 h 4 min": the clients are still starting
    clock.now += 30
    assert bar.eta() == "4 h 9 min"  # after a minute, an estimate is given in any case
    clock.now -= 50
    bar.update(0, work=5.0)
    assert bar.eta() == "33 min 10 s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")]
)
def test_a_duration_is_formatted_as_text(seconds: float, text: str) -> None:
    assert duration(seconds) == text
