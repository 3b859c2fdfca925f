"""The attack benchmark, on runs whose results can be computed by hand."""

from math import comb

import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from mifsim.errors import RunError
from mifsim.tables.records import SCHEMAS
from reports.attacks import benchmark, print_benchmark, write_benchmark
from tests.reports.runs import write, write_simulation

NEEDS = {"nes": "confidence", "mi-face": "gradients"}


def scored(session_id, target, *, kind="attack", hit=False, distance=9.0, confidence=0.5, last=True):
    """Return a row of ``leakage``; reconstructions of a class with equal scores count as identical."""
    return {
        "kind": kind, "session_id": session_id, "target": target, "query": 5, "last": last,
        "evaluator_confidence": confidence, "evaluator_hit": hit, "evaluator_rank": 1 if hit else 2,
        "feature_distance": distance, "nearest_class": target, "ssim_nearest": 0.5, "psnr_nearest_db": 10.0,
    }  # fmt: skip


def write_run(run, reconstructions):
    """Write a run with an attacker for each (target, hit, distance, confidence), and a prior with 2 hits in 20."""
    run = write_simulation(run, filters=("no filter",), leakage=False)
    attackers = [
        {
            **dict.fromkeys(SCHEMAS["sessions"].names),
            "session_id": f"nes/{number}@no filter", "client_id": f"nes/{number}", "role": "attacker",
            "population": "nes pca", "client": "nes", "target": target, "trial": number, "filter": "no filter",
            "kind": "none", "config": "{}", "client_number": 1, "budget_queries": 100, "outcome": "exhausted",
            "queries": 100 + number, "answered_queries": 100 + number, "shared_queries": 2 * number,
            "suspicious_count": 0, "target_confidence": 0.9,
        }
        for number, (target, *_) in enumerate(reconstructions)
    ]  # fmt: skip
    for part in (run / "sessions").iterdir():
        part.unlink()
    write(run / "sessions" / "shard-000000.parquet", "sessions", attackers)
    final = [
        scored(f"nes/{number}@no filter", target, hit=hit, distance=distance, confidence=confidence)
        for number, (target, hit, distance, confidence) in enumerate(reconstructions)
    ]
    early = [scored(f"nes/{number}@no filter", 0, distance=99.0, last=False) for number in range(len(final))]
    # The prior's median distance is 10 for class 0 and 20 for class 1.
    prior = [
        scored(None, target, kind="prior", hit=number == 0, distance=10.0 * (target + 1) + (number - 4.5) / 10,
               confidence=0.1, last=False)
        for target in (0, 1) for number in range(10)
    ]  # fmt: skip
    noise = [scored(None, target, kind="random", distance=30.0, confidence=0.0, last=False) for target in (0, 1)]
    write(run / "leakage" / "scores.parquet", "leakage", [*final, *early, *prior, *noise])
    return run


def nes_row(table: pd.DataFrame) -> pd.Series:
    return table[table["population"] == "nes pca"].iloc[0]


def test_an_attack_that_beats_the_prior_in_both_tests_works(tmp_path):
    run = write_run(tmp_path / "run", [(n % 2, True, 9.0 + 10 * (n % 2), 0.5 + n / 100) for n in range(10)])
    row = nes_row(benchmark(run, NEEDS))
    assert (row["attack"], row["needs"], row["attackers"], row["answered_queries"]) == ("nes", "confidence", 10, 104.5)
    assert (row["evaluator_hits"], row["evaluator_hit_share"], row["closer"]) == (10, 1.0, 10)
    assert (row["shared_queries"], row["target_queries"]) == (9.0, 95.5)  # medians of 2 n and 100 − n, n from 0 to 9
    assert row["evaluator_confidence"] == pytest.approx(0.545)
    assert row["feature_distance"] == 14.0
    assert row["low"] == pytest.approx(0.025**0.1)  # Clopper-Pearson for 10 hits in 10
    assert row["distance_p_value"] == pytest.approx(0.5**10)
    assert row["hit_p_value"] == pytest.approx(comb(20, 2) / comb(30, 12))  # Fisher: 10 hits in 10, and 2 in 20
    assert row["works"]


def test_feature_distances_are_compared_with_the_prior_of_the_same_class(tmp_path):
    run = write_run(tmp_path / "run", [(0, True, 15.0, 0.5), (1, True, 15.0, 0.6)])
    # 15 is above the prior's median for class 0, and below it for class 1.
    assert nes_row(benchmark(run, NEEDS))["closer"] == 1


@pytest.mark.parametrize(
    ("hit", "distance"), [(True, 12.0), (False, 9.0)], ids=["hits, but not close", "close, but no hits"]
)
def test_an_attack_that_beats_the_prior_in_one_test_does_not_work(tmp_path, hit, distance):
    run = write_run(tmp_path / "run", [(0, hit, distance, 0.5 + n / 100) for n in range(20)])
    assert not nes_row(benchmark(run, NEEDS))["works"]


def test_identical_reconstructions_count_once_in_the_tests(tmp_path):
    run = write_run(tmp_path / "run", [(0, True, 9.0, 0.5)] * 12 + [(1, True, 9.0, 0.5)] * 12)
    row = nes_row(benchmark(run, NEEDS))
    assert (row["attackers"], row["reconstructions"], row["evaluator_hits"], row["closer"]) == (24, 2, 2, 2)
    assert row["distance_p_value"] == pytest.approx(0.25)
    assert not row["works"]


def test_zero_query_baselines_are_the_last_rows_and_are_not_tested(tmp_path):
    table = benchmark(write_run(tmp_path / "run", [(0, True, 9.0, 0.5)]), NEEDS)
    assert list(table["population"]) == ["nes pca", "auxiliary images (no query)", "noise images (no query)"]
    prior = table.iloc[1]
    assert (prior["evaluator_hits"], prior["reconstructions"], prior["answered_queries"]) == (2, 20, 0)
    assert prior["works"] is None or pd.isna(prior["works"])


def test_the_benchmark_is_written_with_the_declared_columns_and_printed(tmp_path):
    run = write_run(tmp_path / "run", [(n % 2, True, 9.0, 0.5 + n / 100) for n in range(10)])
    write_benchmark(run, NEEDS)
    schema = pq.read_schema(run / "attack_benchmark.parquet")
    assert schema.equals(SCHEMAS["attack_benchmark"])
    console = Console(width=160, record=True)
    print_benchmark(run, console)
    printed = console.export_text()
    (line,) = [line for line in printed.splitlines() if "nes pca" in line]
    assert "confidence" in line
    assert "100% of 10" in line
    assert "yes" in line
    assert "Fisher's exact test" in printed


def test_a_run_without_scores_or_without_undefended_attackers_is_refused(tmp_path):
    with pytest.raises(RunError, match="no leakage scores"):
        benchmark(write_simulation(tmp_path / "a", leakage=False), NEEDS)
    with pytest.raises(RunError, match="no undefended attacker"):
        benchmark(write_simulation(tmp_path / "b", filters=("paper 3",)), NEEDS)
