"""Near misses are compared with those of the calibration, in any mix of its workloads."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mifsim.statistics import clopper_pearson
from mifsim.watch.monitor import NEAR_MISSES, Levels, Monitor
from mifsim.watch.near_misses import BINS, TESTED, Baseline, nearness_bin, upper_bound
from mifsim.watch.sessions import Cut, WatchedSession


def test_a_bin_holds_its_lower_end() -> None:
    assert nearness_bin(np.arange(11), 10).tolist() == list(range(11))
    assert nearness_bin([0.7 * 3, 0.3 * 3, 2.999], 3.0).tolist() == [7, 3, 9]
    assert nearness_bin([5.0, 0.0], math.inf).tolist() == [0, 0]


@pytest.mark.parametrize(("found", "sessions"), [(0, 1), (0, 299), (3, 128), (70, 640), (5, 5), (0, 0)])
def test_the_bound_is_the_one_of_clopper_and_pearson(found: int, sessions: int) -> None:
    """The one-sided bound at 1 - delta is the end of the two-sided interval at 1 - 2 delta."""
    for delta in (0.025, 0.001):
        expected = clopper_pearson(found, sessions, 1 - 2 * delta)[1]
        assert upper_bound(found, sessions, delta) == pytest.approx(expected, rel=1e-9)


def test_the_worst_workload_counts_and_candidates_share_the_error() -> None:
    rows = ((90, 0, 0, 0, 6, 0, 0, 0, 0, 4, 0), (100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
    bounds = Baseline(("a", "b"), rows).bounds(0.02)
    for bound, first in zip(bounds, TESTED, strict=True):
        assert bound == max(upper_bound(sum(row[first:]), 100, 0.02 / 4) for row in rows)
    assert (Baseline(("a", "b"), rows, candidates=5).bounds(0.02) > bounds).all()


def _monitor(rng: np.random.Generator, shares: np.ndarray, sessions: int) -> Monitor:
    """Return a watch with a calibration of two workloads whose near misses have these probabilities."""
    rows = [np.bincount(rng.choice(BINS, sessions, p=row), minlength=BINS) for row in shares]
    baseline = Baseline(("a", "b"), tuple(tuple(row.tolist()) for row in rows))
    return Monitor(Levels(0.5), Cut(3600.0), baseline)


SHARES = np.array([[0.7, 0.15, 0.05, 0.04, 0.03, 0.01, 0.01, 0.01, 0, 0, 0], [0.95, 0.05, 0, 0, 0, 0, 0, 0, 0, 0, 0]])


def _sessions(bins: np.ndarray) -> list[WatchedSession]:
    return [WatchedSession(float(i), "", nearness=int(found)) for i, found in enumerate(bins)]


def test_the_same_workloads_in_another_mix_raise_hardly_an_alarm() -> None:
    """The error covers both the calibration and the traffic: here, the worst workload alone, with small samples."""
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(150):
        monitor = _monitor(rng, SHARES, 60)
        monitor.add(_sessions(rng.choice(BINS, 1500, p=SHARES[0])))
        alarms += NEAR_MISSES in monitor.alarms
    assert alarms <= 0.05 * 150


def test_traffic_that_comes_nearer_is_noticed_although_nobody_is_blocked() -> None:
    rng, nearer = np.random.default_rng(2), np.array([0.4, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02, 0])
    monitor = _monitor(rng, SHARES, 300)
    monitor.add(_sessions(rng.choice(BINS, 200, p=nearer)))
    assert monitor.blocked == 0
    assert monitor.alarms.keys() == {NEAR_MISSES}
