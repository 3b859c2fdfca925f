"""Honest sessions that a candidate still needs to be certified."""

from dataclasses import replace

import pandas as pd

from reports.verdict import shortfalls
from tests.reports.runs import CHOSEN


def _tested(*rows):
    return pd.DataFrame(
        [
            {**replace(CHOSEN, l_sp=l_sp).to_cells(), "workload": "w", "limit": 0.01, "sessions": 100}
            | {"blocked": blocked, "p_value": p, "chosen": False}
            for l_sp, blocked, p in rows
        ]
    )


def test_the_shortfall_in_a_fixed_sequence_is_that_of_the_first_candidate():
    [shortfall] = shortfalls(_tested((9, 1, 0.7), (3, 0, 0.4)), 0.95, "fixed_sequence")
    assert (shortfall.blocked, shortfall.needed, shortfall.more) == (1, 473, 373)


def test_the_shortfall_under_holm_is_that_of_the_least_p_value_at_a_divided_level():
    [shortfall] = shortfalls(_tested((9, 1, 0.7), (3, 0, 0.4)), 0.95, "holm")
    assert shortfall.blocked == 0
    assert 0.99**shortfall.needed <= 0.025 < 0.99 ** (shortfall.needed - 1)


def test_without_candidates_there_is_no_shortfall():
    assert shortfalls(_tested((9, 1, 0.7)).iloc[:0], 0.95, "holm") == []
