"""The experiment on the guarantee: its result in words, and what a second run of it repeats."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import binomtest

from tests.guarantee.halves import finished, summary


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


def test_finished_calibrations_are_not_repeated_and_others_are_not_replaced(tmp_path: Path) -> None:
    settings = {"kind": "quota", "trials": 7}
    out = tmp_path / "rows.parquet"
    assert finished(out, settings) == []
    rows = [{"seed": 0, "blocked": 3, **settings}, {"seed": 1, "blocked": 0, **settings}]
    pd.DataFrame(rows).to_parquet(out)
    assert finished(out, settings) == rows
    with pytest.raises(SystemExit, match="another trials than 8"):
        finished(out, {**settings, "trials": 8})


def test_the_published_result_follows_from_the_published_table() -> None:
    published = Path(__file__).parents[2] / "reports" / "guarantee-mnist"
    rows = pd.read_parquet(published / "evidence.parquet")
    text = (published / "README.md").read_text(encoding="utf-8")
    assert f"**{summary(rows)}**" in text
    certified = rows[rows["certified"]]
    for workload, of in certified.groupby("workload"):
        highest = (of["blocked"] / of["sessions"]).max()
        assert f"| {workload} | {of['blocked'].sum()} of {of['sessions'].sum():,} | {highest:.2%} |" in text
