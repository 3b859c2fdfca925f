"""Which attacks beat the zero-query baselines, from a table whose intervals are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mifsim.tables.records import SCHEMAS
from reports.attacks import print_benchmark, write_benchmark
from reports.page import render
from reports.zero_query import sentences, verdicts
from tests.reports.reading import Page
from tests.reports.runs import write, write_simulation

Bounds = tuple[float, float, float] | None
BETTER = {"accuracy_at_1": (0.75, 0.6, 0.9), "knn_distance": (2.0, 1.5, 2.5)}
BASELINES: dict[str, dict[str, Bounds]] = {
    "random": {"accuracy_at_1": (0.1, 0.05, 0.2), "knn_distance": (9.0, 9.0, 9.0)},
    "prior": {"accuracy_at_1": (0.4, 0.3, 0.5), "knn_distance": (4.0, 3.5, 4.5)},
    "labelled": {"accuracy_at_1": (0.9, 0.8, 1.0), "knn_distance": (1.0, 0.5, 1.4)},
}


def row(filter_: str | None, name: str | None, kind: str, metrics: dict[str, Bounds]) -> dict[str, Any]:
    found = {
        **dict.fromkeys(SCHEMAS["leakage_sets"].names), "kind": kind, "filter": filter_, "population": name,
        "reconstructions": 40, "classes": 4, "private_images": 200, "neighbours": 4, "recall_neighbours": 4,
        "evaluator_accuracy": 0.9, "evaluator_low": 0.83, "evaluator_high": 0.95,
    }  # fmt: skip
    for metric, bounds in metrics.items():
        for suffix, value in zip(("", "_low", "_high"), bounds or (1.0, None, None), strict=True):
            found[metric + suffix] = value
    return found


def write_run(folder: Path, attacks: dict[str, dict[str, Bounds]], filter_: str = "no filter") -> Path:
    run = write_simulation(folder)
    rows = [row(filter_, name, "attack", BETTER | metrics) for name, metrics in attacks.items()]
    rows += [row(None, None, kind, metrics) for kind, metrics in BASELINES.items()]
    write(run / "leakage_sets.parquet", "leakage_sets", rows)
    return run


OF_AUXILIARY = "of auxiliary images (no query)"


@pytest.mark.parametrize(
    ("metrics", "reasons"),
    [
        ({}, []),  # the labelled baseline, which needs queries, has no part in the comparison
        ({"accuracy_at_1": (0.6, 0.5001, 0.7)}, []),
        (
            {"accuracy_at_1": (0.6, 0.5, 0.7)},
            [f"accuracy at 1 60.0% (50.0% to 70.0%) overlaps with 40.0% (30.0% to 50.0%) {OF_AUXILIARY}"],
        ),
        ({"knn_distance": (3.0, 2.5, 3.4999)}, []),
        (
            {"knn_distance": (3.0, 2.5, 3.6)},
            [f"KNN distance 3.00 (2.50 to 3.60) overlaps with 4.00 (3.50 to 4.50) {OF_AUXILIARY}"],
        ),
        (
            {"knn_distance": (9.5, 8.0, 10.0)},
            [
                "KNN distance 9.50 (8.00 to 10.00) is not better than 9.00 (9.00 to 9.00) of noise (no query)",
                f"KNN distance 9.50 (8.00 to 10.00) is not better than 4.00 (3.50 to 4.50) {OF_AUXILIARY}",
            ],
        ),
        ({"knn_distance": None}, ["the KNN distance has no interval (one reconstruction of one class)"]),
    ],
)
def test_an_attack_beats_the_baselines_if_no_interval_overlaps(
    tmp_path: Path, metrics: dict[str, Bounds], reasons: list[str]
) -> None:
    (found,) = verdicts(write_run(tmp_path / "run", {"nes": metrics}))
    assert list(found.reasons) == reasons


def test_attacks_behind_a_filter_are_not_compared(tmp_path: Path) -> None:
    assert verdicts(write_run(tmp_path / "run", {"nes": {}}, filter_="paper 3")) == []


def test_the_terminal_and_the_page_name_the_attacks_and_the_reasons_of_the_others(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"mi-face": {}, "nes": {}, "brep": {"accuracy_at_1": (0.2, 0.1, 0.3)}})
    first, second = sentences(verdicts(run))
    assert first.startswith("2 of 3 attacks beat both zero-query baselines")
    assert first.endswith(": mi-face, nes.")
    assert second.startswith("Not brep: accuracy at 1 20.0% (10.0% to 30.0%) overlaps with 10.0% (5.00% to 20.0%)")
    write_benchmark(run, {"mi-face": "gradients"})
    console = Console(width=1000, record=True)
    print_benchmark(run, console)
    printed, page = console.export_text(), Page(render(run)).text
    for sentence in (first, second):
        assert sentence in printed
        assert sentence in page


def test_a_run_without_metrics_has_no_verdicts(tmp_path: Path) -> None:
    assert sentences(verdicts(write_simulation(tmp_path / "run"))) == []
