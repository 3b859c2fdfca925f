"""An ETA follows the pace of the work, and is not shown before the pace is known."""

from __future__ import annotations

import pytest

from mifsim import progress
from mifsim.progress import Bar, duration


class Clock:
    """Stands where it is put."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_the_eta_is_the_work_left_at_the_pace_so_far(clock: Clock) -> None:
    bar = Bar("running", 10, "sessions", work=1000.0)
    assert bar.eta() == "unknown"
    clock.now += 20
    bar.update(1, work=250.0)
    assert bar.eta() == "1 min 0 s"  # 750 at 12.5 a second
    # A run that was resumed: 600 were done before, 100 of the 400 that were left now.
    bar.update(7, work=100.0, before=600.0)
    assert bar.eta() == "1 min 0 s"  # 300 at 5 a second


def test_the_first_moments_are_no_pace(clock: Clock) -> None:
    bar = Bar("running", 10, "sessions", work=1000.0)
    clock.now += 30
    bar.update(0, work=4.0)
    assert bar.eta() == "unknown"  # not "2 h 4 min": the clients are being started
    clock.now += 30
    assert bar.eta() == "4 h 9 min"  # after a minute it is what there is
    clock.now -= 50
    bar.update(0, work=5.0)
    assert bar.eta() == "33 min 10 s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")]
)
def test_a_time_span_is_said_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
