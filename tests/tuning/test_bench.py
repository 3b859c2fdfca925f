"""The comparison of detectors: calibrations on one recording, replayed and simulated attackers, tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mifsim.defense import load_config
from mifsim.defense.quota import QuotaConfig
from mifsim.errors import RunError, StudyError
from mifsim.run import simulate as simulation
from mifsim.run.fits import fit_detectors
from mifsim.server.client_specs import shards
from mifsim.study import Study
from reports.bench import summary, write_bench
from tests.tuning.kind_studies import REACHABLE
from tests.tuning.studies import FormulaBackend, digits, formula_victim, tiny_study
from tuning import bench as comparison
from tuning.bench_costs import bytes_of, measure_costs
from tuning.bench_outcomes import attack_text, evasion_text
from tuning.bench_studies import crossed_studies, queries_of_comparison

BENCH = {
    "detectors": [
        {"name": "evidence", "kind": "evidence"},
        {"name": "evidence+naturalness", "kind": "evidence", "space": {"naturalness": [True]}},
        {"name": "quota", "kind": "quota", "trials": 6},
    ],
    "trials": 3,
    "knowing": [[{"sharpen": 1.0}], [{"accounts": 2}]],
    "unseen": [{"user": "bursts", "name": "noisy bursts", "sessions": 10, "length": 4, "noise": 0.1}],
}


def bench_study(**changes) -> Study:
    return tiny_study(
        **{
            "tuning": {"trials": 8, **REACHABLE},
            "matrix": {"evasions": [[{"decoys": 2}], [], [{"rotate": {}}]]},
            "bench": BENCH,
            "filters": [{"name": "two", "kind": "quota", "queries": 2}],
            "leakage": {"enabled": False, "baseline_images": 7},
            **changes,
        }
    )


@pytest.fixture
def backends(calibrate, tmp_path, monkeypatch):
    """Replace victim, Ray and the search; return the backends that were made."""
    made = []

    def inputs(study):
        data = digits(study)
        return fit_detectors(study, data), data, formula_victim(tmp_path)

    def backend(*where):
        made.append(FormulaBackend())
        return made[-1]

    for module in (comparison, simulation):
        monkeypatch.setattr(module, "load_inputs", inputs)
        monkeypatch.setattr(module, "make_backend", backend)
    return made


@pytest.mark.usefixtures("backends")
def test_every_detector_meets_every_attack_and_workload(tmp_path: Path):
    run = comparison.bench(bench_study(), tmp_path / "run")
    write_bench(run)
    cells = pd.read_parquet(run / "cells.parquet")
    # Four detectors, two scopes, one attack with five rows of evasions.
    assert len(cells) == 4 * 2 * 5
    assert set(cells["detector"]) == {"evidence", "evidence+naturalness", "quota", "two"}
    assert set(cells[cells["knows_detector"]]["evasion"].str.split(" ").str[0]) == {"sharpen", "accounts"}
    assert (cells["attackers"] == 6).all()
    # Replayed cells are in the order of the study.
    assert list(dict.fromkeys(cells["evasion"]))[:3] == ["decoys (between 2)", "", "sharpen (strength 1.0, sigma 1.0)"]
    # A quota of two blocks every open-loop attacker at the third query, with or without decoys.
    two = cells[(cells["detector"] == "two") & ~cells["evasion"].str.startswith(("rotate", "accounts"))]
    assert (two["blocked"] == 6).all()
    assert (two["mean_queries"] == 3).all()
    # Rotation defeats it as long as the state is the session's.
    rotate = cells[(cells["detector"] == "two") & cells["evasion"].str.startswith("rotate")].set_index("scope")
    assert rotate.loc["session", "blocked"] == 0
    assert rotate.loc["client", "blocked"] == 6
    simulated = Study.load(run / "closed-loop" / "matrix" / "study.toml")
    assert simulated.leakage == bench_study().leakage
    accounts = cells[(cells["detector"] == "two") & cells["evasion"].str.startswith("accounts")].set_index("scope")
    assert accounts.loc["client", "mean_queries"] > 3

    workloads = pd.read_parquet(run / "workloads.parquet")
    assert set(workloads["workload"]) == {"independent", "retries", "noisy bursts"}
    unseen = workloads[workloads["split"] == "unseen"]
    assert set(unseen["workload"]) == {"noisy bursts"}
    assert set(unseen["sessions"]) == {6}  # those outside of the search split: 40% of 10 and 20% of 10
    assert not unseen["certified"].any()
    ablations = pd.read_parquet(run / "ablations.parquet")
    evidence = load_config(run / "calibrations" / "evidence" / "filter.toml")
    found = ablations[ablations["detector"] == "evidence"]
    assert set(found["without"]) == set(evidence.ablations())
    assert (ablations["stopped_without"] <= ablations["stopped"]).all()
    of_two = workloads[workloads["detector"] == "two"]
    assert (of_two["blocked"] == of_two["sessions"]).all()  # all sessions have three queries or more
    assert not of_two["certified"].any()
    detectors = pd.read_parquet(run / "detectors.parquet")
    assert [json.loads(text)["scope"] for text in detectors["configuration"]] == detectors["scope"].tolist()
    assert detectors["scope"].tolist() == ["session", "client"] * 4
    detectors = detectors[detectors["scope"] == "client"].set_index("detector")
    assert detectors["calibrated"].to_dict() == {
        "evidence": True,
        "evidence+naturalness": True,
        "quota": True,
        "two": False,
    }
    plain, learned = (load_config(run / "calibrations" / name / "filter.toml") for name in list(detectors.index)[:2])
    assert not plain.naturalness
    assert learned.naturalness
    assert plain.fit != learned.fit
    quota = load_config(run / "calibrations" / "quota" / "filter.toml")
    assert isinstance(quota, QuotaConfig)
    assert json.loads(detectors.loc["quota", "configuration"])["queries"] == quota.queries
    found = summary(run).set_index("detector")
    assert found.loc["two", "cells_stopped_client"] == 3
    assert found.loc["two", "cells_stopped_knowing_client"] == 2


def test_an_interrupted_comparison_is_resumed_to_the_same_tables(backends, tmp_path: Path, monkeypatch):
    whole = comparison.bench(bench_study(), tmp_path / "whole")
    original = comparison.simulate

    def interrupted(*arguments, **where):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "simulate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comparison.bench(bench_study(), tmp_path / "run")
    monkeypatch.setattr(comparison, "simulate", original)
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    changed = {**recorded, "victim": {**recorded["victim"], "fingerprint": "another"}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(changed))
    with pytest.raises(RunError, match="the run started with another"):
        comparison.resume_bench(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps(recorded))
    run = comparison.resume_bench(tmp_path / "run")
    assert (run / "model_input.png").read_bytes().startswith(b"\x89PNG")
    for folder in (whole, run):
        write_bench(folder)
    for name in ("cells", "workloads", "bench_outcomes"):
        one, other = (pd.read_parquet(folder / f"{name}.parquet") for folder in (whole, run))
        pd.testing.assert_frame_equal(one, other)


def test_a_comparison_is_estimated_by_its_recordings_and_its_live_runs():
    """Six attackers of 25 queries; users: 12 sessions of 6 on average, 12 of 8, and 10 of 4 that are unseen.

    Two decoys for each query triple the budget. The two closed-loop evasions run under four detectors in two scopes
    and without a detector.
    """
    attackers, live_runs = 6 * 25, 4 * 2 + 1
    open_loop = attackers + 3 * attackers + attackers + attackers
    expected = open_loop + 2 * attackers * live_runs + 12 * 6 + 12 * 8 + 10 * 4
    assert queries_of_comparison(bench_study(), 10) == expected == 3808


def test_crossed_attackers_run_in_small_shards():
    """A shard has at most 96 / 3 clients, so that an interrupted run loses little, and every host has work."""
    study = bench_study(server={"sessions_per_host": 5000}, bench={**BENCH, "trials": 40})
    sizes = [[len(shard.specs) for shard in shards(crossed, 10)] for _, crossed in crossed_studies(study)]
    filters, users = 2, 24
    assert [sum(found) for found in sizes] == [filters * (3 * 2 * 40 + users), filters * (2 * 2 * 40 + users)]
    assert max(map(max, sizes)) == 32


@pytest.mark.parametrize("name", ["bench-digits", "bench-faces"])
def test_the_attack_of_each_cell_is_one_of_the_study(name: str):
    """Also if rows differ only in the arguments of their evasions, such as 20 and 50 decoys."""
    study = Study.load(name)
    attacks = [attack.name for attack in study.attacks]
    for _, crossed in crossed_studies(study):
        found = [(attack_text(attack), evasion_text(attack)) for attack in crossed.attacks]
        assert list(dict.fromkeys(attack for attack, _ in found)) == attacks
        assert len(set(found)) == len(found)


@pytest.mark.usefixtures("backends")
def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path):
    with pytest.raises(StudyError, match=r"bench\.detectors: missing"):
        comparison.bench(tiny_study(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    simulation.simulate(bench_study(), tmp_path / "simulation")
    with pytest.raises(RunError, match="not a comparison of detectors"):
        comparison.resume_bench(tmp_path / "simulation")


@pytest.mark.parametrize(
    ("bench", "message"),
    [
        ({"detectors": [{"name": "a", "kind": "qota"}]}, r"bench\.detectors: 'a': .*'qota'.*'quota'"),
        ({"detectors": [{"name": "a", "kind": "quota", "space": {"n_b": 1}}]}, r"space\.n_b: 'quota' has no such"),
        ({"detectors": [{"name": "two", "kind": "quota"}]}, "must have different names; used more than once: two"),
        ({"detectors": [{"name": "a", "kind": "quota"}], "scopes": []}, "scopes"),
        ({"detectors": [{"name": "a", "kind": "quota"}], "knowing": [[{"sharpn": 1}]]}, "sharpen"),
        ({"detectors": [{"name": "a", "kind": "quota", "kinds": 1}]}, "kinds: unknown key"),
    ],
)
def test_an_invalid_section_is_refused(bench, message):
    with pytest.raises(StudyError, match=message):
        bench_study(bench=bench)


def test_the_section_survives_a_file(tmp_path: Path):
    study = bench_study()
    study.save(tmp_path / "study.toml")
    assert Study.load(tmp_path / "study.toml") == study


def test_costs_are_those_of_queries_that_are_answered():
    class Pool:
        labels = np.zeros(3, np.int64)

        def __len__(self):
            return 3

        def image(self, index):
            return np.full((8, 8), 0.5, np.float32)

    microseconds, size = measure_costs(QuotaConfig(queries=1000), Pool())
    assert microseconds > 0
    assert 0 < size < 10
    assert bytes_of({"a": np.zeros(4), "b": [1, 2.0], "c": "four"}) == 32 + 16 + 4
