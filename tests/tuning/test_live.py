"""Closed-loop attackers in a calibration: they run live, and do the same as in a simulation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mifsim.defense import FilterConfig, read_config
from mifsim.errors import StudyError
from mifsim.run import simulate as simulation
from mifsim.study import Study
from tests.tuning.studies import FormulaBackend, Prober, digits, formula_model, formula_victim, tiny_study
from tuning.live import LiveAttackers, clients_of, open_loop
from tuning.objectives import NO_LIVE, evaluate, objectives
from tuning.replay import replay_swept
from tuning.trace_loading import load
from tuning.traces import record

STRICT = FilterConfig(0.3, 0.1, 5, 6, ssim="uniform")
LENIENT = FilterConfig(0.9, 0.01, 5, 2)
REACHABLE = {"false_positive_limit": 0.6, "confidence": 0.8}
"""Limits that a handful of sessions can certify."""
PLAIN: dict[str, Any] = {
    "attack": "mi-face", "name": "plain", "noise": 0.01, "labels": [0, 3], "trials": 3, "budget_queries": 25,
    "beta": 0, "gamma": 0.0,
}  # fmt: skip


def mixed_study(rotate: dict[str, Any] | int, **changes: Any) -> Study:
    """Return the tiny study with an open-loop attack, and with its closed-loop variant that rotates sessions."""
    attacks = [PLAIN, {**PLAIN, "name": "rotating", "evasions": [{"rotate": rotate}]}]
    return tiny_study(**{"attacks": attacks, **changes})


def live_attackers(study: Study) -> LiveAttackers:
    return LiveAttackers(study, formula_model(study, digits(study), None))


def test_live_attackers_need_as_many_queries_as_in_a_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = mixed_study(
        {}, filters=[{"name": "strict", "t_ssim": 0.3, "t_hash": 0.1, "n_b": 5, "l_sp": 6, "ssim": "uniform"}]
    )
    monkeypatch.setattr(simulation, "load_inputs", lambda study: (study, digits(study), formula_victim(tmp_path)))
    monkeypatch.setattr(simulation, "make_backend", lambda *where: FormulaBackend())
    run = simulation.simulate(study, tmp_path / "run")
    rows = pq.read_table(run / "sessions").to_pandas()
    rows = rows[rows["population"] == "rotating"]
    selected = {spec.client_id for spec in clients_of(study, "search", 10)}
    assert len(selected) == 2  # one of the three trials for each of two classes
    rows = rows[rows["client_id"].isin(selected)]
    assert rows.groupby("client_id", observed=True).size().min() > 1  # each client used several sessions
    spent = rows.groupby("client_id", observed=True)["queries"].sum()
    assert live_attackers(study).queries([STRICT]).tolist() == [[spent.mean()]]


def test_a_rotating_attacker_with_one_session_matches_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker that may rotate but has one session only does the same as the open-loop attacker of the same name."""
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path))
    closed = tiny_study(attacks=[{**PLAIN, "evasions": [{"rotate": {"sessions": 1}}]}])
    replayed = tiny_study(attacks=[PLAIN])
    recording = record(replayed, digits(replayed), formula_victim(tmp_path), FormulaBackend())
    traces = load(recording.path, replayed).of_split("search")
    configs = [STRICT, LENIENT, FilterConfig(0.99, 1e-3, 3, 1)]
    expected = [evaluate(traces, config).queries for config in configs]
    assert len(set(expected)) > 1
    assert live_attackers(closed).queries(configs)[:, 0].tolist() == expected


def test_results_do_not_depend_on_concurrent_configurations() -> None:
    live = live_attackers(mixed_study(4))
    together = live_attackers(mixed_study(4)).queries([STRICT, LENIENT, STRICT])
    assert together[0] == together[2]
    assert np.array_equal(np.vstack([live.queries([STRICT]), live.queries([LENIENT])]), together[:2])


def test_objectives_combine_live_and_replayed_attacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path))
    study = open_loop(mixed_study({}))
    traces = load(record(study, digits(study), formula_victim(tmp_path), FormulaBackend()).path, study)
    alone = evaluate(traces, STRICT).queries
    assert evaluate(traces, STRICT, "worst", np.array([alone + 3])).queries == alone + 3
    assert evaluate(traces, STRICT, "worst", np.array([alone - 3])).queries == alone
    assert evaluate(traces, STRICT, "mean", np.array([alone + 3, alone])).queries == pytest.approx(alone + 1)
    sums = replay_swept(traces, STRICT, {"n_b": 5, "l_sp": 6})
    plain, with_live = objectives(traces, sums), objectives(traces, sums, live=np.array([alone]))
    assert np.array_equal(with_live[0], plain[0])
    assert np.array_equal(with_live[1], np.maximum(plain[1], alone))
    honest = traces.subset(~traces.is_attack)
    assert evaluate(honest, STRICT, "worst", np.array([7.0])).queries == 7
    with pytest.raises(ValueError, match="no attack session"):
        evaluate(honest, STRICT, "worst", NO_LIVE)


@pytest.mark.parametrize("with_open_loop", [True, False])
def test_a_calibration_runs_closed_loop_attackers_live(
    calibrate: Callable[[Study], Path], with_open_loop: bool
) -> None:
    space = {"n_b": {"max": 10}, "l_sp": {"min": 2, "max": 8}, "t_ssim": {"max": 0.9}, "t_hash": {"min": 0.003}}
    tuning = {"trials": 10, "space": space, "false_positive_budget": 0.9, "grid": {"t_ssim": 6, "t_hash": 6},
              **REACHABLE}  # fmt: skip
    study = mixed_study({"sessions": 2}, tuning=tuning)
    if not with_open_loop:
        study = study.model_copy(update={"attacks": study.attacks[1:]})
    run = calibrate(study)
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "complete"
    found = facts["tuning"]
    assert found["closed_loop"] == ["rotating"]
    assert found["chosen"] is not None
    assert "hypervolume_share" not in found  # no reference front exists to measure against
    pareto = pq.read_table(run / "pareto.parquet").to_pandas()
    assert "reference" not in set(pareto["source"])

    # The table contains the queries of the worst attack; the queries of a closed-loop attack are counted by client.
    chosen = read_config(found["chosen"])
    live = float(live_attackers(study).queries([chosen])[0, 0])
    row = pareto[pareto["chosen"]].iloc[0]
    assert row["queries_to_block"] == live if not with_open_loop else row["queries_to_block"] >= live
    given = pareto[pareto["name"] == "strict"].iloc[0]
    assert given["queries_to_block"] >= float(live_attackers(study).queries([STRICT])[0, 0])

    # The confirmation runs the closed-loop attackers, too, although no replay predicts their sessions.
    sessions: pd.DataFrame = pq.read_table(run / "sessions").to_pandas()
    rotating = sessions[sessions["population"] == "rotating"]
    assert set(rotating["client_id"]) == {spec.client_id for spec in clients_of(study, "test", 10)}
    assert found["confirmed_sessions"] == len(sessions) - len(rotating)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tuning": {**REACHABLE, "leakage": True}, "leakage": {"enabled": True}},
            r"not available with closed-loop attackers \(rotating\)",
        ),
        (
            {"tuning": REACHABLE, "attacks": [{**PLAIN, "trials": 1, "evasions": [{"rotate": {}}]}]},
            "'plain' has no client for each class under attack in the search split; accepted: 3 or more",
        ),
    ],
)
def test_a_study_that_cannot_be_calibrated_leaves_no_run_folder(
    calibrate: Callable[[Study], Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        calibrate(mixed_study({}, **changes))
    assert not (tmp_path / "run").exists()


def test_closed_loop_users_are_refused(calibrate: Callable[[Study], Path]) -> None:
    study = tiny_study(tuning=REACHABLE)
    prober = study.users[0].model_copy(update={"client": Prober(), "name": "prober"})
    with pytest.raises(StudyError, match=r"users 'prober': closed-loop"):
        calibrate(study.model_copy(update={"users": [prober]}))
