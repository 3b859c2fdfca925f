"""The result of the experiment, in words."""

from __future__ import annotations

import pandas as pd
from scipy.stats import binomtest

from tests.guarantee.halves import summary


def test_the_summary_counts_the_calibrations_that_exceed_a_limit() -> None:
    blocked = {0: (50, 49), 1: (51, 0), 2: (0, 0), 3: (0, 0)}  # of 5,000 sessions; the limit is 50
    rows = pd.DataFrame(
        [
            {
                "seed": seed,
                "workload": workload,
                "certified": seed != 3,
                "sessions": 5000,
                "blocked": count,
                "limit": 0.01,
            }
            for seed, counts in blocked.items()
            for workload, count in zip(("bursts", "video"), counts, strict=True)
        ]
    )
    interval = binomtest(1, 3).proportion_ci(0.95, "exact")
    assert summary(rows) == (
        "1 of 3 certified calibrations (4 in all) exceed a limit on fresh sessions: 33%, exact 95% interval "
        f"{interval.low:.1%} to {interval.high:.1%}; at most 5% may. Mean of the worst workloads: 0.67%; highest rate "
        "1.02% (bursts, seed 1)."
    )
