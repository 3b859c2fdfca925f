"""Figures of a configuration for each group of sessions."""

import numpy as np
import pytest

from mifsim.defense import FilterConfig
from mifsim.statistics import clopper_pearson
from tests.tuning.guarantee import two_query_sessions
from tuning.assess import assess


def test_assess_returns_the_figures_of_each_group():
    """Two of three attack sessions and one of four users are blocked at the second of ten queries; a group is empty."""
    similarity = np.array([0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1])
    traces = two_query_sessions(similarity, np.full(7, 0.5), np.array([0, 0, 0, 1, 1, 1, 1]))
    attack, users = assess(traces, FilterConfig(0.5, 1.0, 1, 1), confidence=0.9)
    assert (attack.group, attack.is_attack, attack.sessions, attack.blocked) == ("attack", True, 3, 2)
    assert (users.group, users.is_attack, users.sessions, users.blocked) == ("users", False, 4, 1)
    assert attack.queries == pytest.approx((2 + 2 + 10) / 3)
    assert users.queries == pytest.approx((2 + 10 + 10 + 10) / 4)
    assert attack.curve.queries.tolist() == [0, 2, 10]
    assert attack.curve.open == pytest.approx([1, 1 / 3, 1 / 3])
    assert attack.curve.median == 2
    assert users.curve.median is None
    assert (users.low, users.high) == clopper_pearson(1, 4, 0.9)
