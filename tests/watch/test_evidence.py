"""The statistics of the watch: closed forms, rates of false alarms, and delays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mifsim.watch.evidence import ODDS_RATIOS, change_statistics, log_change, log_evidence, share_bounds

LIMIT, DELTA = 0.01, 0.05


def test_evidence_is_the_mean_of_likelihood_ratios() -> None:
    """Each bet is the likelihood ratio of the share p, whose odds are r times those of the limit, and the limit."""
    for sessions, blocked in ((0, 0), (1, 0), (1, 1), (40, 3), (500, 2)):
        ratios = []
        for r in ODDS_RATIOS.tolist():
            odds = r * LIMIT / (1 - LIMIT)
            p = odds / (1 + odds)
            ratios.append((p / LIMIT) ** blocked * ((1 - p) / (1 - LIMIT)) ** (sessions - blocked))
        assert math.exp(log_evidence(sessions, blocked, LIMIT)) == pytest.approx(np.mean(ratios), rel=1e-12)


def test_a_bet_has_mean_one_at_the_limit_and_less_below() -> None:
    """The defining property, exactly: the mean of the next capital over the two outcomes."""
    for share, expected in ((LIMIT, 1.0), (LIMIT / 2, None), (0.0, None)):
        safe, hit = (math.exp(log_evidence(1, x, LIMIT)) for x in (0, 1))
        mean = (1 - share) * safe + share * hit
        assert mean == pytest.approx(expected) if expected else mean < 1


def test_counts_of_shards_can_be_added() -> None:
    rng = np.random.default_rng(1)
    outcomes = rng.random(900) < 0.02
    parts = np.array_split(outcomes, 3)
    sessions, blocked = sum(len(part) for part in parts), sum(int(part.sum()) for part in parts)
    one_by_one = np.zeros(len(ODDS_RATIOS))
    for x in outcomes:
        one_by_one += x * np.log(ODDS_RATIOS) - np.log1p((ODDS_RATIOS - 1) * LIMIT)
    assert log_evidence(sessions, blocked, LIMIT) == pytest.approx(np.log(np.mean(np.exp(one_by_one))))


def test_large_numbers_do_not_overflow() -> None:
    assert log_evidence(10**7, 10**6, LIMIT) > 10_000
    assert log_evidence(10**7, 0, LIMIT) < -10_000
    assert np.isfinite(log_change(change_statistics(np.ones(5000, bool), LIMIT))).all()


def test_the_detector_follows_its_recursion() -> None:
    outcomes = np.random.default_rng(2).random(300) < 0.05
    m = np.zeros(len(ODDS_RATIOS))
    expected = []
    for x in outcomes:
        m = (m + 1) * ODDS_RATIOS**x / (1 + (ODDS_RATIOS - 1) * LIMIT)
        expected.append(m)
    assert np.exp(change_statistics(outcomes, LIMIT)) == pytest.approx(np.array(expected), rel=1e-9)
    split = change_statistics(outcomes[120:], LIMIT, change_statistics(outcomes[:120], LIMIT)[-1])
    assert split == pytest.approx(change_statistics(outcomes, LIMIT)[120:], rel=1e-9)
    assert log_change(np.log(expected[-1])) == pytest.approx(math.log(np.mean(expected[-1])))


def _at_blocks(rng: np.random.Generator, years: int, blocks: int, share: float) -> np.ndarray:
    """Return the numbers of sessions up to each blocked one, for sessions that are blocked with the same probability.

    The evidence rises at blocked sessions only, so its largest value is at one of them.
    """
    return rng.geometric(share, (years, blocks)).cumsum(axis=1)


def test_false_alarms_of_1000_years_at_the_limit_itself() -> None:
    """Years of 20,000 sessions, of which exactly the promised share is blocked: at most 5% of them raise an alarm.

    With 1,000 years, a level of exactly 5% would exceed 6.8% of them with a probability below 1%.
    """
    sessions = _at_blocks(np.random.default_rng(3), 1000, 320, LIMIT)
    inside = sessions <= 20_000
    assert not inside[:, -1].any()  # there are blocks enough for each year
    evidence = log_evidence(sessions, np.arange(1, 321), LIMIT)
    alarms = (inside & (evidence >= -math.log(DELTA))).any(axis=1)
    assert 0.005 < alarms.mean() <= 0.05


@pytest.mark.parametrize(("share", "median"), [(0.02, 1100), (0.03, 300), (0.05, 110), (0.36, 6)])
def test_a_larger_share_is_noticed(share: float, median: int) -> None:
    sessions = _at_blocks(np.random.default_rng(4), 500, 150, share)
    reached = log_evidence(sessions, np.arange(1, 151), LIMIT) >= -math.log(DELTA)
    delays = np.where(reached.any(axis=1), sessions[np.arange(500), reached.argmax(axis=1)], 10**9)
    assert np.median(delays) <= median


def test_the_detector_notices_a_late_change_which_the_evidence_does_not() -> None:
    """After 3,000 good sessions, 5% are blocked."""
    rng = np.random.default_rng(5)
    detector, evidence = [], []
    for _ in range(40):
        outcomes = np.concatenate([rng.random(3000) < 0.005, rng.random(3000) < 0.05])
        path = log_change(change_statistics(outcomes, LIMIT))
        assert (path[:3000] < math.log(10_000)).all()
        detector.append(int((path >= math.log(10_000)).argmax()) - 3000)
        total = log_evidence(np.arange(1, 6001), outcomes.cumsum(), LIMIT)
        evidence.append(int((total >= -math.log(DELTA)).argmax()) - 3000)
    assert 0 < np.median(detector) <= 150
    assert np.median(evidence) > 3 * np.median(detector)


def test_the_mean_run_length_is_as_stated() -> None:
    """At the limit itself, a detector with the threshold 300 raises its first alarm after 300 sessions or more."""
    rng = np.random.default_rng(6)
    runs = []
    for _ in range(300):
        path = log_change(change_statistics(rng.random(6000) < LIMIT, LIMIT))
        reached = path >= math.log(300)
        runs.append(int(reached.argmax()) + 1 if reached.any() else 6000)
    assert np.mean(runs) >= 300


def test_the_lower_bound_exceeds_the_limit_exactly_at_an_alarm() -> None:
    sessions = np.arange(1, 400)
    blocked = (np.random.default_rng(7).random(399) < 0.04).cumsum()
    low, high = share_bounds(sessions, blocked, DELTA)
    assert ((low > LIMIT) == (log_evidence(sessions, blocked, LIMIT) >= -math.log(DELTA))).all()
    assert ((low <= blocked / sessions) & (blocked / sessions <= high)).all()


def test_bounds_are_right_at_all_times() -> None:
    rng = np.random.default_rng(8)
    sessions, wrong = np.unique(np.geomspace(1, 3000, 60).astype(int)), np.zeros(2)
    for _ in range(200):
        blocked = (rng.random(3000) < 0.1).cumsum()[sessions - 1]
        low, high = share_bounds(sessions, blocked, DELTA)
        wrong += (low > 0.1).any(), (high < 0.1).any()
    assert (wrong / 200 <= 0.085).all()  # 5%, and three standard errors of 200 runs
    assert share_bounds(0, 0, DELTA) == (0.0, 1.0)
