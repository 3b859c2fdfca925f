"""Test of the guarantee: how many of 1,000 calibrations exceed the limit, with known true false-positive rates."""

from __future__ import annotations

import pytest
from scipy import stats

from tests.tuning.guarantee import DELTA, JUST_ABOVE, NEAR_THE_LIMIT, repeat_calibrations

REPEATS = 1000


@pytest.mark.parametrize(
    ("name", "candidates"), [("near the limit", NEAR_THE_LIMIT), ("all just above it", JUST_ABOVE)]
)
def test_share_of_calibrations_that_exceed_the_limit(request, name, candidates):
    broken, chosen, naive = repeat_calibrations(candidates, REPEATS)
    request.config.get_terminal_writer().line(
        f"\n{REPEATS} calibrations, candidates {name}: {broken:.1%} exceed the limit (guarantee: at most {DELTA:.0%}), "
        f"{chosen:.1%} choose a configuration; without certification, {naive:.1%} would exceed it"
    )
    assert broken * REPEATS <= stats.binom.isf(1e-4, REPEATS, DELTA)
