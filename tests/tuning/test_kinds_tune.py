"""Whole calibrations of kinds of detectors other than the paper's filter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mifsim.defense import FilterConfig, read_config
from mifsim.defense.kinds import read_cells
from tests.tuning.kind_studies import REACHABLE, kind_study
from tests.tuning.kinds import AllowanceConfig, BrightConfig, LiveAllowanceConfig
from tests.tuning.studies import tiny_study

pytestmark = pytest.mark.usefixtures("kinds")


def facts_of(run: Path) -> dict[str, Any]:
    """Return the facts about the calibration in a complete run."""
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    assert facts["status"] == "complete"
    found: dict[str, Any] = facts["tuning"]
    return found


def rows_of(run: Path, file: str, *omitted: str) -> list[dict[str, Any]]:
    """Return the rows of a table without the kind and the given columns."""
    rows = pq.read_table(run / f"{file}.parquet").to_pylist()
    return [{key: value for key, value in row.items() if key not in ("kind", *omitted)} for row in rows]


@pytest.mark.usefixtures("invalid_image_users")
def test_a_calibration_gives_the_same_result_with_and_without_replay(calibrate: Callable[..., Path]) -> None:
    filters = tiny_study().to_toml()["filters"][:1]
    runs = {
        cls: calibrate(kind_study(cls.kind, [*filters, {"name": "seven", "kind": cls.kind, "queries": 7}]), cls.kind)
        for cls in (AllowanceConfig, LiveAllowanceConfig)
    }
    for cls, run in runs.items():
        found = facts_of(run)
        assert found["kind"] == cls.kind
        assert found["parameters"] == {"queries": "the valid query that is refused"}
        assert found["without_replay"] == ([] if cls is AllowanceConfig else [cls.kind])
        assert not any(name.startswith(("reference", "hypervolume")) for name in found)
        chosen = read_config(found["chosen"])
        assert isinstance(chosen, cls)
        assert cls.load(run / "filter.toml") == chosen
        pareto = pq.read_table(run / "pareto.parquet").to_pandas()
        assert "reference" not in set(pareto["source"])
        assert {"search", "given"} <= set(pareto["source"])
        for row in pareto.to_dict("records"):
            config = read_cells(row["kind"], row["config"])
            if row["name"] == "third":  # a configuration of another kind, without this parameter
                assert isinstance(config, FilterConfig)
                assert np.isnan(row["param_queries"])
            else:
                assert isinstance(config, cls)
                assert row["param_queries"] == config.queries
        assert pq.read_schema(run / "trials" / "trials.parquet").field("param_queries").type == "int64"
        sessions = pq.read_table(run / "sessions").to_pandas()
        assert found["confirmed_sessions"] == len(sessions)
        assert set(sessions[sessions["filter"] == "seven"]["kind"]) == {cls.kind}
    one, other = runs.values()
    assert rows_of(one, "trials/trials", "elapsed_seconds") == rows_of(other, "trials/trials", "elapsed_seconds")
    for file in ("certification", "pareto"):
        assert rows_of(one, file) == rows_of(other, file)
    assert facts_of(one)["test"] == facts_of(other)["test"]


@pytest.mark.usefixtures("invalid_image_users")
def test_a_calibration_is_measured_against_the_reference_front_of_its_kind(calibrate: Callable[..., Path]) -> None:
    space = {"level": {"max": 0.03}, "limit": {"min": 8}}  # digits are dark, and attacks start from dark images
    run = calibrate(
        kind_study("test-bright", tuning={"kind": "test-bright", "trials": 30, "space": space, **REACHABLE})
    )
    found = facts_of(run)
    assert 0 < found["hypervolume_share"] <= 1
    assert found["reference_configs_tried"] > 5 * 5
    pareto = pq.read_table(run / "pareto.parquet").to_pylist()
    assert {"search", "reference"} <= {row["source"] for row in pareto}
    assert all(
        read_cells(row["kind"], row["config"]) == BrightConfig(row["param_level"], row["param_limit"]) for row in pareto
    )


@pytest.mark.usefixtures("invalid_image_users")
def test_a_given_filter_without_replay_runs_live_beside_a_search_with_replay(calibrate: Callable[..., Path]) -> None:
    filters = [
        {"name": "live", "kind": "test-live-allowance", "queries": 7},
        {"name": "replayed", "kind": "test-allowance", "queries": 7},
    ]
    study = kind_study("test-stuck", filters)
    run = calibrate(study)
    found = facts_of(run)
    assert found["without_replay"] == ["test-live-allowance"]
    rows = {row["name"]: row for row in pq.read_table(run / "pareto.parquet").to_pylist() if row["source"] == "given"}
    for column in ("queries_to_block", "false_positive_rate"):
        assert rows["live"][column] == rows["replayed"][column]
    assert rows["live"]["param_repeats"] is None
    assert found["test"]["live"] == found["test"]["replayed"]


@pytest.mark.usefixtures("invalid_image_users")
def test_closed_loop_attackers_and_a_kind_without_replay_are_compatible(calibrate: Callable[..., Path]) -> None:
    (plain,) = tiny_study().to_toml()["attacks"]
    attacks = [{**plain, "name": "plain"}, {**plain, "name": "rotating", "evasions": [{"rotate": {"sessions": 2}}]}]
    runs = [calibrate(kind_study(kind, attacks=attacks), kind) for kind in ("test-allowance", "test-live-allowance")]
    found = [facts_of(run) for run in runs]
    assert [one["closed_loop"] for one in found] == [["rotating"]] * 2
    assert [one["without_replay"] for one in found] == [[], ["test-live-allowance"]]
    trials = [rows_of(run, "trials/trials", "elapsed_seconds") for run in runs]
    assert trials[0] == trials[1]
    # The rotating attacker uses two sessions of as many queries as allowed, up to its budget; if its first query is
    # refused, it stops. It is never the faster one of the two attacks.
    for row in trials[0]:
        assert row["queries_to_block"] == (1 if row["param_queries"] == 1 else min(25, 2 * row["param_queries"]))
