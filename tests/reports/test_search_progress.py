import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.search_progress import search_progress
from reports.tables import pareto_table, trial_table


def test_the_best_so_far_counts_only_whole_trials_within_the_limit(certified):
    progress = search_progress(trial_table(certified), None, budget=100, limit=0.01, region=0.1)
    # 3 queries at 20% are above the limit, 2 queries were scored on a tenth of the sessions.
    assert progress.best == (None, 50, 50, 20, 20, 20)
    assert progress.found is None


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 0.15), st.floats(1, 150), st.sampled_from([30, 300])), min_size=1, max_size=12))
def test_the_hypervolume_after_each_trial_is_the_share_of_a_raster_that_the_whole_trials_cover(rows):
    trials = pd.DataFrame(rows, columns=["false_positive_rate", "queries_to_block", "sessions_replayed"])
    found = search_progress(trials, None, budget=100, limit=None, region=0.1).hypervolume
    side = (np.arange(400) + 0.5) / 400
    rates, decades = np.meshgrid(side * 0.1, side)
    covered = np.zeros(rates.shape, dtype=bool)
    whole = max(sessions for _, _, sessions in rows)
    for (rate, queries, sessions), volume in zip(rows, found, strict=True):
        if sessions == whole:
            covered |= (rates >= rate) & (decades >= np.log(queries) / np.log(100))
        assert volume == pytest.approx(covered.mean(), abs=0.02)


def test_the_share_found_grows_and_is_measured_against_grid_and_trials_together(certified):
    progress = search_progress(trial_table(certified), pareto_table(certified), budget=100, limit=0.01, region=0.1)
    # The grid's one point is (0, 10): half. A trial of 5 queries at 5% lies beyond it.
    beyond = 0.5 * (0.5 - np.log(5) / np.log(100))
    assert progress.reference == pytest.approx(0.5 + beyond)
    assert list(progress.found) == sorted(progress.found)
    assert progress.found[-1] < 1


def test_an_empty_front_has_no_reference(certified):
    none = pareto_table(certified).iloc[:0]
    assert search_progress(trial_table(certified), none, budget=100, limit=None, region=0.1).reference is None
