"""The comparison of detectors with models whose content cannot be read: a service, and a plug-in's function."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mifsim.plugins import load_plugin, unload_plugins
from mifsim.study import Study
from mifsim.victims import preparing
from mifsim.victims.model_check import check_model
from reports.bench import write_bench
from tests.run.victims import label_study, of_service
from tests.tuning.studies import serial_search
from tests.victims.inference_service import service
from tests.victims.test_plugin_engine import PLUGIN
from tuning.bench import bench


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("tuning.search.search", serial_search)
    yield
    unload_plugins()


def bench_study(**victim: Any) -> Study:
    """Return a comparison of two quotas on one attack, alone and with rotation, which runs live."""
    changed = {
        "attacks": [{"attack": "nes", "labels": [0, 3], "trials": 3, "budget_queries": 12}],
        "filters": [{"name": "two", "kind": "quota", "queries": 2}],
        "matrix": {"evasions": [[], [{"rotate": {}}]]},
        "bench": {"detectors": [{"name": "quota", "kind": "quota", "trials": 3}], "trials": 1},
        "server": {"batch_size": 16},
        "tuning": {"false_positive_limit": 0.6, "confidence": 0.8},
    }
    return Study.parse({**label_study(**victim, accept_any_accuracy=True).to_toml(), **changed})


def test_a_service_and_the_plug_in_of_the_same_model_give_the_same_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []

    def check(engine: Any, *arguments: Any) -> Any:
        checked.append(type(engine).__name__)
        return original(engine, *arguments)

    original = check_model
    monkeypatch.setattr("mifsim.victims.model_check.check_model", check)
    with service((28, 28, 1), 10) as found:
        runs = [bench(bench_study(**of_service(found)), tmp_path / "service", backend="in-process")]
    load_plugin(PLUGIN)
    runs.append(bench(bench_study(plugin="linear"), tmp_path / "plug-in", backend="in-process"))
    assert checked == ["UrlEngine", "PluginEngine"]  # once for all parts of a comparison
    assert preparing._checked is None
    tables = []
    for run in runs:
        write_bench(run)
        tables.append(pd.read_parquet(run / "cells.parquet"))
        facts = [json.loads(file.read_text()) for file in run.rglob("run.json")]
        assert len({one["victim"]["fingerprint"] for one in facts}) == 1
        assert {one["status"] for one in facts} == {"complete"}
    pd.testing.assert_frame_equal(*tables)
    two = tables[0][tables[0]["detector"] == "two"].set_index(["evasion", "scope"])
    assert two.loc[("", "session"), "blocked"] == two.loc[("", "session"), "attackers"] == 2
    assert two.loc[("", "session"), "mean_queries"] == 3
