"""Sessions are counted in the order of their start, cut at a fixed age, whatever the order in which they arrive."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mifsim.watch.monitor import BLOCKED, COVERAGE, Levels, Monitor
from mifsim.watch.near_misses import Baseline
from mifsim.watch.sessions import Cut, WatchedSession

CUT = Cut(3600.0, 50)
BASELINE = Baseline(("a",), ((200, 20, 5, 3, 0, 0, 0, 0, 0, 0, 0),))


def simulated(seed: int, number: int, share: float, age_of_block: float = 700.0) -> list[WatchedSession]:
    """Return sessions that start at random times, of which a share is blocked after some time."""
    rng = np.random.default_rng(seed)
    starts = np.sort(rng.integers(0, number * 20, number)).astype(float)
    hits = rng.random(number) < share
    return [
        WatchedSession(start, f"{i:05d}", start + age_of_block, 5, 5, 10)
        if hit
        else WatchedSession(start, f"{i:05d}", queries=int(rng.integers(1, 60)), nearness=int(rng.integers(0, 4)))
        for i, (start, hit) in enumerate(zip(starts.tolist(), hits.tolist(), strict=True))
    ]


def test_the_cut_is_at_the_age_and_at_the_number_of_queries() -> None:
    within = WatchedSession(100.0, "", 3700.0, 50, 50, 10)
    assert CUT.blocked(within)
    assert not CUT.blocked(within._replace(blocked=3700.1))
    assert not CUT.blocked(within._replace(blocked_at=51))
    assert not CUT.blocked(WatchedSession(100.0, ""))
    assert Cut(3600.0).blocked(within._replace(blocked_at=10**6))
    assert [CUT.nearness(session) for session in (within, within._replace(blocked_at=51))] == [10, 9]


def test_three_orders_of_feeding_give_the_same_evidence() -> None:
    sessions = simulated(1, 600, 0.03)
    now = 20 * 600 + CUT.age
    by_end = sorted(sessions, key=lambda session: min(session.blocked, session.start + 8 * 3600))
    shuffled = [sessions[i] for i in np.random.default_rng(2).permutation(len(sessions))]
    states = []
    for order in (sessions, by_end, shuffled):
        monitor = Monitor(Levels(0.01), CUT, BASELINE)
        monitor.add(CUT.decided(order, now))
        states.append(monitor.to_dict())
    assert states[0]["sessions"] == 600
    assert states[0]["alarms"]
    assert states[0] == states[1] == states[2]


def test_only_sessions_of_the_age_are_decided() -> None:
    """Also a blocked one waits: otherwise the first outcomes would be blocks only."""
    sessions = [WatchedSession(0.0, "a"), WatchedSession(10.0, "b", 20.0, 2, 2, 10), WatchedSession(5.0, "c")]
    assert CUT.decided(sessions, 3599.0) == []
    assert [session.key for session in CUT.decided(sessions, 3605.0)] == ["a", "c"]
    assert [session.key for session in CUT.decided(sessions, 3610.0)] == ["a", "c", "b"]


def test_feeding_day_by_day_and_after_restarts_is_as_feeding_at_once() -> None:
    sessions = simulated(3, 800, 0.02)
    whole = Monitor(Levels(0.01), CUT, BASELINE)
    paths = whole.add(CUT.decided(sessions, math.inf))
    parts = Monitor(Levels(0.01), CUT, BASELINE)
    found = []
    for part in np.array_split(np.arange(800), 9):
        restarted = Monitor(Levels(0.01), CUT, BASELINE)
        restarted.continue_from(json.loads(json.dumps(parts.to_dict())))
        found.append(restarted.add([sessions[i] for i in part]))
        parts = restarted
    for one, other in zip(paths, zip(*found, strict=True), strict=True):
        assert np.concatenate(other) == pytest.approx(one, rel=1e-9)
    assert parts.alarms == whole.alarms
    assert parts.evidence() == pytest.approx(whole.evidence())
    assert (parts.sessions, parts.blocked, parts.histogram) == (whole.sessions, whole.blocked, whole.histogram)


def test_an_alarm_stays_and_names_the_session() -> None:
    monitor = Monitor(Levels(0.01, 0.05), CUT)
    monitor.add([WatchedSession(float(i), "", float(i), 1, 1, 10) for i in range(3)])
    # Two blocked sessions of two: the mean of r^2 / (1 + (r - 1) / 100)^2 is above 20.
    assert monitor.alarms[BLOCKED] == 1.0
    monitor.add([WatchedSession(10.0 + i, "") for i in range(2000)])
    assert monitor.evidence()[BLOCKED] < 0
    assert monitor.alarms == {BLOCKED: 1.0}


def test_coverage_is_an_alarm_while_the_sessions_outside_could_exceed_the_limit() -> None:
    monitor = Monitor(Levels(0.01), CUT)
    long, short = WatchedSession(0.0, "", queries=51), WatchedSession(1.0, "", queries=50)
    monitor.add([long, short])
    assert (monitor.outside, monitor.alarms) == (1, {})  # one of few is always above the limit
    monitor.add([short] * 98)
    assert COVERAGE not in monitor.alarms  # exactly the limit
    monitor.add([long])
    assert monitor.alarms == {COVERAGE: 0.0}
    monitor.add([short] * 99)
    assert (monitor.sessions, monitor.outside, monitor.alarms) == (200, 2, {})


def test_nothing_decided_is_no_evidence() -> None:
    monitor = Monitor(Levels(0.01), CUT, BASELINE)
    assert all(len(path) == 0 for path in monitor.add([]))
    assert monitor.evidence()[BLOCKED] == 0.0
    assert not monitor.alarms
    restarted = Monitor(Levels(0.01), CUT, BASELINE)
    restarted.continue_from(json.loads(json.dumps(monitor.to_dict())))
    restarted.add([WatchedSession(0.0, "")])
    assert restarted.first == restarted.last == 0.0
    with pytest.raises(ValueError, match="version = 7"):
        restarted.continue_from({**monitor.to_dict(), "version": 7})
