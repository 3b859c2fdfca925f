"""The literature's metrics in the terminal and on the page, from a table whose values are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mifsim.tables.records import SCHEMAS
from reports.attacks import print_benchmark, write_benchmark
from reports.leakage_metrics import COLUMNS, metrics
from reports.page import render
from tests.reports.reading import Page
from tests.reports.runs import write, write_simulation


def row(filter_: str | None, population: str | None, kind: str = "attack", **values: Any) -> dict[str, Any]:
    found = {
        **dict.fromkeys(SCHEMAS["leakage_sets"].names), "kind": kind, "filter": filter_, "population": population,
        "reconstructions": 40, "classes": 40, "private_images": 200, "neighbours": 4, "recall_neighbours": 0,
        "evaluator_accuracy": 0.9, "evaluator_low": 0.83, "evaluator_high": 0.95, "accuracy_at_1": 0.75,
        "accuracy_at_1_low": 0.588, "accuracy_at_1_high": 0.873, "knn_distance": 1.5, "knn_distance_low": 1.25,
        "knn_distance_high": 1.75,
    }  # fmt: skip
    return found | values


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_simulation(tmp_path / "run")
    rows = [row("paper 3", "mi-face", accuracy_at_1=0.25), row("no filter", "mi-face"), row(None, None, "prior")]
    write(folder / "leakage_sets.parquet", "leakage_sets", rows)
    return folder


def test_the_page_shows_each_metric_with_its_interval_beside_the_evaluators_accuracy(run: Path) -> None:
    page = Page(render(run))
    head, *rows = page.tables["metrics"]
    assert head == ["filter", "attack", "n", "evaluator’s accuracy", *(title for _, title, _ in COLUMNS)]
    assert [cells[:2] for cells in rows] == [
        ["paper 3", "mi-face"], ["no filter", "mi-face"],
        ["zero-query or labelled baseline", "auxiliary images (no query)"],
    ]  # fmt: skip
    values = dict(zip(head, rows[1], strict=True))
    assert values["evaluator’s accuracy"] == "90.0%"
    assert values["accuracy at 1"] == "75.0% (58.8% to 87.3%)"
    assert values["KNN distance"] == "1.50 (1.25 to 1.75)"
    assert values["recall"] == "–"
    assert "recall: undefined, because each class has one" in page.text


def test_the_attack_benchmark_prints_the_metrics_of_undefended_attacks_only(run: Path) -> None:
    write_benchmark(run, {"mi-face": "gradients"})
    console = Console(width=240, record=True)
    print_benchmark(run, console)
    _, _, printed = console.export_text().partition("by the metrics of the literature")
    assert "75.0%" in printed
    assert "25.0%" not in printed
    assert "90.0% (95% interval 83.0% to 95.0%)" in printed


def test_a_run_without_the_table_has_no_metrics(tmp_path: Path) -> None:
    assert metrics(write_simulation(tmp_path / "run")) is None
    assert "metrics" not in Page(render(tmp_path / "run")).tables
