import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.search_progress import hypervolume, search_progress
from reports.tables import pareto_table, trial_table


def test_the_best_so_far_counts_only_whole_trials_within_the_limit(certified):
    progress = search_progress(trial_table(certified), None, budget=100, limit=0.01, region=0.1)
    # 3 queries at 20% are above the limit, 2 queries were scored on a tenth of the sessions.
    assert progress.best == (None, 50, 50, 20, 20, 20)
    assert progress.found is None


def test_hypervolume_of_points_worked_out_by_hand():
    # In tenths of the rates and decades out of two: (0.05, 10) covers 1/2 * 1/2; (0, 31.6) adds 1/2 * 1/4.
    assert hypervolume([(0.05, 10.0)], 100, 0.1) == pytest.approx(0.25)
    assert hypervolume([(0.05, 10.0), (0.0, 10**1.5)], 100, 0.1) == pytest.approx(0.375)
    assert hypervolume([(0.2, 1.0), (0.0, 100.0)], 100, 0.1) == 0
    assert hypervolume([(0.0, 1.0)], 100, 0.1) == 1


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 0.15), st.floats(1, 150)), max_size=6))
def test_hypervolume_is_the_share_of_a_fine_raster(points):
    side = (np.arange(400) + 0.5) / 400
    rates, decades = np.meshgrid(side * 0.1, side)
    covered = np.zeros(rates.shape, dtype=bool)
    for rate, queries in points:
        covered |= (rates >= rate) & (decades >= np.log(queries) / np.log(100))
    assert hypervolume(points, 100, 0.1) == pytest.approx(covered.mean(), abs=0.02)


def test_the_share_found_grows_and_is_measured_against_grid_and_trials_together(certified):
    progress = search_progress(trial_table(certified), pareto_table(certified), budget=100, limit=0.01, region=0.1)
    # The grid's one point is (0, 10): half. A trial of 5 queries at 5% lies beyond it.
    beyond = 0.5 * (0.5 - np.log(5) / np.log(100))
    assert progress.exact == pytest.approx(0.5 + beyond)
    assert list(progress.found) == sorted(progress.found)
    assert progress.found[-1] < 1


def test_an_empty_frontier_has_no_yardstick(certified):
    none = pareto_table(certified).iloc[:0]
    assert search_progress(trial_table(certified), none, budget=100, limit=None, region=0.1).exact is None
