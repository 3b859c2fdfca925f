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


def test_of_a_fixed_sequence_the_first_counts():
    [part] = shortfalls(_tested((9, 1, 0.7), (3, 0, 0.4)), 0.95, "fixed_sequence")
    assert (part.blocked, part.needed, part.more) == (1, 473, 373)


def test_under_holm_the_least_p_value_counts_at_the_shared_level():
    [part] = shortfalls(_tested((9, 1, 0.7), (3, 0, 0.4)), 0.95, "holm")
    assert part.blocked == 0
    assert 0.99**part.needed <= 0.025 < 0.99 ** (part.needed - 1)


def test_without_a_candidate_there_is_nothing_to_say():
    assert shortfalls(_tested((9, 1, 0.7)).iloc[:0], 0.95, "holm") == []
