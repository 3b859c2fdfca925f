"""The Pareto front that a search found, and its progress against the reference front."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mifsim.defense import FilterConfig
from tests.tuning.studies import tiny_study
from tuning.outcome import found_front, measure
from tuning.reference_front import ParetoFront
from tuning.trials import Trial, TrialResult


def test_the_front_omits_pruned_trials_and_trials_above_the_budget() -> None:
    study = tiny_study()
    rows = [(9.0, 0.0, 40), (5.0, 0.05, 40), (7.0, 0.05, 40), (1.0, 0.5, 40), (2.0, 0.0, 10)]
    trials = [
        Trial(n, FilterConfig(0.9, 0.1, 1, n + 1), TrialResult(queries, rate, None, sessions), 0.0)
        for n, (queries, rate, sessions) in enumerate(rows)
    ]
    assert [one.number for one in found_front(trials, 40, study)] == [0, 1]
    assert found_front(trials[3:4], 40, study) == []


def test_progress_counts_the_trials_to_98_percent() -> None:
    """For a budget of 100, 10 queries without false positives give half of the hypervolume: 1 of 2 decades."""
    attack = {"attack": "mi-face", "budget_queries": 100}
    study = tiny_study(attacks=[attack])
    front = ParetoFront((FilterConfig(0.9, 0.1, 1, 1),), np.array([[0.0, 10.0]]), 0.5, 1)
    config = FilterConfig(0.9, 0.1, 1, 1)
    trials = [
        Trial(n, config, TrialResult(queries, 0.0, None, 2), 0.0) for n, queries in enumerate([100.0, 50.0, 10.0, 10.0])
    ]
    progress = measure(trials, front, study)
    assert progress.trials_to_98 == 3
    assert progress.share == pytest.approx(1.0)
    assert progress.reference_hypervolume == pytest.approx(0.5)
    early = measure(trials[:2], front, study)
    assert early.trials_to_98 is None
    assert early.share == pytest.approx((1 - math.log(50) / math.log(100)) / 0.5)
