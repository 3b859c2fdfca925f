"""Several detectors calibrated jointly: recordings, searches, confirmations, comparisons of detectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cluster.bundle import pack
from mifsim.defense import load_config
from mifsim.defense.any_of import AnyOfConfig
from mifsim.defense.evidence.config import EvidenceConfig
from mifsim.defense.kinds import read_cells
from mifsim.defense.nearest import NearestConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.run import simulate as simulation
from mifsim.run.fits import fit_detectors
from mifsim.study import Study
from reports.bench import write_bench
from reports.page import render
from tests.tuning.joint_studies import OF, joint_study
from tests.tuning.kind_studies import REACHABLE
from tests.tuning.studies import (
    FormulaBackend,
    assert_live_matches_replay,
    digits,
    formula_model,
    formula_victim,
    tiny_study,
)
from tuning import bench as comparison
from tuning.live import LiveReplay
from tuning.replay import replay
from tuning.trace_loading import load
from tuning.traces import record, recording_specs

# Recording and replay.


@pytest.mark.usefixtures("invalid_image_users", "empty_cache")
def test_live_sessions_do_what_the_members_recordings_predict(tmp_path: Path) -> None:
    """Recorded for the members alone: the earliest block of the members, by hand, is what the sessions do live."""
    members: list[dict[str, Any]] = [
        {"kind": "ssim-hash", "t_ssim": 0.9, "t_hash": 0.02, "n_b": 3, "l_sp": 6},
        {"kind": "evidence", "noisy_radius": 0.01, "noisy_limit": 3.0},
        {"kind": "prada", "min_distances": 8, "delta": 0.95},
        {"kind": "quota", "queries": 6},
    ]  # fmt: skip
    alone = [{"name": item["kind"], **item} for item in members]
    every = [
        {"name": "any-of", "kind": "any-of", "of": members},
        {"name": "client", "kind": "any-of", "of": members, "scope": "client"},
        {"name": "small", "kind": "any-of", "of": [members[1], {**members[0], "view": {"size": 12}}],
         "view": {"size": 20}},
    ]  # fmt: skip
    changes: dict[str, Any] = {
        "tuning": {"kind": "quota"},
        "users": [*tiny_study().to_toml()["users"], {"user": "spoilt", "sessions": 12}],
    }
    recorded = fit_detectors(tiny_study(filters=alone, **changes), digits(tiny_study()))
    study = fit_detectors(tiny_study(filters=[*alone, *every[:2]], **changes), digits(tiny_study()))
    assert recording_specs(study) == recording_specs(recorded)
    record(recorded, digits(study), formula_victim(tmp_path), FormulaBackend())
    again = record(study, digits(study), formula_victim(tmp_path), FormulaBackend())
    assert again.cached
    expected = assert_live_matches_replay(study, load(again.path, study), tmp_path / "live")
    blocks: dict[str, list[int | None]] = {}
    for session, query in expected.items():
        blocks.setdefault(session.partition("@")[2], []).append(query)
    for name in ("any-of", "client"):
        assert blocks[name] == [
            min((query for query in queries if query), default=None)
            for queries in zip(*(blocks[item["name"]] for item in alone), strict=True)
        ]
    first = [
        next(item["name"] for item, query in zip(alone, queries, strict=True) if query == found)
        for *queries, found in zip(*(blocks[item["name"]] for item in alone), blocks["any-of"], strict=True)
        if found
    ]
    assert set(first) == {"ssim-hash", "evidence", "quota"}
    viewed = fit_detectors(tiny_study(filters=every, **changes), digits(study))
    traces = load(record(viewed, digits(viewed), formula_victim(tmp_path), FormulaBackend()).path, viewed)
    assert_live_matches_replay(viewed, traces, tmp_path / "viewed")


@pytest.mark.usefixtures("kinds", "empty_cache")
def test_with_a_member_without_replay_it_runs_live(tmp_path: Path) -> None:
    of = [{"kind": "test-live-allowance"}, {"kind": "evidence", "space": {"memory": [4]}}]
    study = fit_detectors(joint_study(of), digits(joint_study()))
    space = study.tuning.search_space
    assert not space.replayable
    traces = load(record(study, digits(study), formula_victim(tmp_path), FormulaBackend()).path, study)
    live = LiveReplay(study, formula_model(study, digits(study), None), digits(study))
    evidence = EvidenceConfig(noisy_radius=0.02, noisy_limit=3.0, memory=4, fit=study.tuning.of[1].fit)
    allowance = read_cells("test-live-allowance", '{"queries": 6}')
    mixed = live(traces, AnyOfConfig(of=(allowance, evidence))).blocked_at
    alone = [live(traces, allowance).blocked_at, replay(traces, evidence).blocked_at]
    never = 10**9
    earliest = np.stack([np.where(found == 0, never, found) for found in alone]).min(axis=0)
    assert mixed.tolist() == np.where(earliest == never, 0, earliest).tolist()


# Calibrations.


def test_a_joint_calibration_finds_certifies_and_confirms_a_configuration(calibrate: Callable[..., Path]) -> None:
    run = calibrate(joint_study(tuning={"scope": "client"}))
    facts = json.loads((run / "run.json").read_text())["tuning"]
    chosen = load_config(run / "filter.toml")
    assert isinstance(chosen, AnyOfConfig)
    assert chosen.scope == "client"
    nearest, quota = chosen.of
    assert isinstance(nearest, NearestConfig)
    assert isinstance(quota, QuotaConfig)
    assert (run / f"fit-{nearest.fit}.npz").is_file()
    assert (run / "fits" / f"fit-{nearest.fit}.npz").is_file()
    assert (run / "filter.toml").read_text().count("[[filter.of]]") == 2
    trials = pq.read_table(run / "trials" / "trials.parquet").to_pandas()
    for row in trials.to_dict("records"):
        config = read_cells(row["kind"], row["config"])
        assert isinstance(config, AnyOfConfig)
        assert config.parameter_values()["quota.queries"] == row["param_quota.queries"]
        assert config.parameter_values()["nearest.radius"] == row["param_nearest.radius"]
    assert trials["param_quota.queries"].nunique() > 5
    sessions = pq.read_table(run / "sessions").to_pandas()
    assert facts["confirmed_sessions"] == len(sessions)
    assert set(facts["ablations"]) == {"nearest", "quota"}
    assert facts["parameters"]["quota.queries"] == "queries before the block"
    calibrated = sessions[sessions["filter"] == "calibrated"]
    # No session has more queries than the quota and the one that it blocks.
    assert calibrated["queries"].max() <= quota.queries + 1
    assert "<dt>quota.queries</dt>" in render(run)


def test_members_with_derived_limits_are_calibrated_jointly(calibrate: Callable[..., Path]) -> None:
    of = [{"kind": "evidence", "space": {"memory": [10], "k": [1, 2]}}, OF[1]]
    (plain,) = tiny_study().to_toml()["attacks"]
    attacks = [{**plain, "name": "plain"}, {**plain, "name": "rotating", "evasions": [{"rotate": {"sessions": 2}}]}]
    first, second = (
        calibrate(joint_study(of, tuning={"trials": 10, "leave_out": leave_out}, attacks=attacks), name)
        for name, leave_out in (("first", True), ("second", False))
    )
    tables = [pq.read_table(run / "trials" / "trials.parquet").drop(["elapsed_seconds"]) for run in (first, second)]
    assert tables[0].equals(tables[1])
    assert set(tables[0]["param_evidence.k"].to_pylist()) == {1, 2}
    chosen = load_config(first / "filter.toml")
    assert isinstance(chosen, AnyOfConfig)
    assert isinstance(chosen.of[0], EvidenceConfig)
    facts = json.loads((first / "run.json").read_text())["tuning"]
    assert facts["closed_loop"] == ["rotating"]
    assert {"evidence", "quota"} <= set(facts["ablations"])
    left_out = pq.read_table(first / "leave_out.parquet").to_pandas()
    assert set(left_out["workload"]) == {"independent", "retries"}
    assert (left_out["param_quota.queries"].dropna() >= 3).all()


def test_it_is_calibrated_beside_another_detector(calibrate: Callable[..., Path]) -> None:
    pair = {"name": "pair", "kind": "any-of", "of": OF, "trials": 6}
    run = calibrate(tiny_study(tuning={"kind": "quota", "trials": 6, "compare": [pair], **REACHABLE}))
    chosen = load_config(run / "compared" / "pair" / "filter.toml")
    assert isinstance(chosen, AnyOfConfig)
    assert "pair" in set(pq.read_table(run / "sessions").to_pandas()["filter"])  # confirmed live
    study = Study.load(run / "study.toml")
    assert [member.kind for member in study.tuning.compare[0].of] == ["nearest", "quota"]


def test_a_bundle_contains_the_fits_of_members(tmp_path: Path) -> None:
    study = fit_detectors(joint_study(filters=[]), digits(joint_study()))
    fit = study.tuning.of[0].fit
    assert fit
    assert f"fits/fit-{fit}.npz".encode() in pack(study).content


# Closed-loop attackers and the comparison of detectors.


def test_the_state_of_all_members_outlives_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacker sends four queries in each session: it never reaches the session's quota of six."""
    (plain,) = tiny_study().to_toml()["attacks"]
    of = [{"kind": "quota", "queries": 6}, {"kind": "osd-l2", "threshold": 0.0}]
    study = tiny_study(
        filters=[{"name": scope, "kind": "any-of", "of": of, "scope": scope} for scope in ("session", "client")],
        attacks=[{**plain, "evasions": [{"rotate": {"every": 4}}]}],
        users=[],
    )
    monkeypatch.setattr(simulation, "load_inputs", lambda study: (study, digits(study), formula_victim(tmp_path)))
    monkeypatch.setattr(simulation, "make_backend", lambda *where: FormulaBackend())
    rows = pq.read_table(simulation.simulate(study, tmp_path / "run") / "sessions").to_pandas()
    of_session, of_client = (rows[rows["filter"] == scope] for scope in ("session", "client"))
    assert not (of_session["outcome"] == "blocked").any()
    blocked = of_client[of_client["outcome"] == "blocked"].sort_values("last_query").groupby("client_id").first()
    assert len(blocked) == 6
    assert (blocked["last_query"] == 7).all()


def test_the_comparison_calibrates_and_runs_it(
    calibrate: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inputs(study: Study) -> Any:
        data = digits(study)
        return fit_detectors(study, data), data, formula_victim(tmp_path)

    for module in (comparison, simulation):
        monkeypatch.setattr(module, "load_inputs", inputs)
        monkeypatch.setattr(module, "make_backend", lambda *where: FormulaBackend())
    members = [{"kind": "evidence", "space": {"memory": [10]}}, OF[1]]
    study = tiny_study(
        tuning={"trials": 8, **REACHABLE},
        matrix={"evasions": [[], [{"rotate": {}}]]},
        bench={"detectors": [{"name": "evidence+quota", "kind": "any-of", "of": members}], "trials": 3},
        filters=[{"name": "both", "kind": "any-of",
                  "of": [{"kind": "quota", "queries": 2}, {"kind": "osd-l2", "threshold": 0.0}]}],
    )  # fmt: skip
    run = comparison.bench(study, tmp_path / "bench")
    write_bench(run)
    cells = pd.read_parquet(run / "cells.parquet")
    assert set(cells["detector"]) == {"evidence+quota", "both"}
    both = cells[(cells["detector"] == "both") & (cells["scope"] == "client")]
    assert (both["blocked"] == 6).all()
    detectors = pd.read_parquet(run / "detectors.parquet").set_index(["detector", "scope"])
    chosen = load_config(run / "calibrations" / "evidence+quota" / "filter.toml")
    assert read_cells("any-of", detectors.loc[("evidence+quota", chosen.scope), "configuration"]) == chosen
    assert (detectors["microseconds_a_query"] > 0).all()
