"""Progress of a search: the best configuration within the limit, and the hypervolume."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.search_progress import search_progress
from reports.tables import pareto_table, trial_table


def test_the_best_so_far_counts_only_complete_trials_within_the_limit(certified):
    progress = search_progress(trial_table(certified), None, budget=100, limit=0.01, region=0.1)
    # The trial with 3 queries has a rate of 20%, above the limit; the one with 2 queries was pruned.
    assert progress.best == (None, 50, 50, 20, 20, 20)
    assert progress.found is None


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 0.15), st.floats(1, 150), st.sampled_from([30, 300])), min_size=1, max_size=12))
def test_the_hypervolume_is_the_share_of_a_raster_that_complete_trials_cover(rows):
    trials = pd.DataFrame(rows, columns=["false_positive_rate", "queries_to_block", "sessions_replayed"])
    found = search_progress(trials, None, budget=100, limit=None, region=0.1).hypervolume
    side = (np.arange(400) + 0.5) / 400
    rates, decades = np.meshgrid(side * 0.1, side)
    covered = np.zeros(rates.shape, dtype=bool)
    all_sessions = max(sessions for _, _, sessions in rows)
    for (rate, queries, sessions), volume in zip(rows, found, strict=True):
        if sessions == all_sessions:
            covered |= (rates >= rate) & (decades >= np.log(queries) / np.log(100))
        assert volume == pytest.approx(covered.mean(), abs=0.02)


def test_the_share_found_grows_and_its_reference_includes_all_trials(certified):
    progress = search_progress(trial_table(certified), pareto_table(certified), budget=100, limit=0.01, region=0.1)
    # The reference front has one point, (0, 10), with hypervolume 0.5. A trial of 5 queries at 5% adds to it.
    added = 0.5 * (0.5 - np.log(5) / np.log(100))
    assert progress.reference == pytest.approx(0.5 + added)
    assert list(progress.found) == sorted(progress.found)
    assert progress.found[-1] < 1


def test_an_empty_front_has_no_reference(certified):
    empty = pareto_table(certified).iloc[:0]
    assert search_progress(trial_table(certified), empty, budget=100, limit=None, region=0.1).reference is None
