"""Attackers with several accounts in a calibration: they run live, and do what a simulation has them do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mifsim.defense import read_config
from mifsim.defense.quota import QuotaConfig
from mifsim.run import simulate as simulation
from mifsim.study import Study
from reports.tables import attackers, sessions
from tests.tuning.studies import FormulaBackend, digits, formula_model, formula_victim, tiny_study
from tuning.live import LiveAttackers, clients_of

ATTACK: dict[str, Any] = {
    "attack": "mi-face", "name": "spread", "noise": 0.01, "labels": [0, 3], "trials": 3, "budget_queries": 25,
    "beta": 0, "gamma": 0.0,
}  # fmt: skip


def study_of(accounts: dict[str, Any], **changes: Any) -> Study:
    attacks = [{**ATTACK, "name": "plain"}, {**ATTACK, "evasions": [{"accounts": accounts}]}]
    return tiny_study(**{"attacks": attacks, **changes})


def live_of(study: Study) -> LiveAttackers:
    return LiveAttackers(study, formula_model(study, digits(study), None))


@pytest.mark.parametrize("scope", ["session", "client"])
@pytest.mark.parametrize(
    ("accounts", "blocked_at"),
    [
        ({"accounts": 3}, 15),  # each of them is refused at its fifth query
        ({"accounts": 2, "turn": 4}, 10),
        ({"accounts": 4, "order": "one-after-another"}, 20),
        ({"accounts": 6}, 25),  # the budget ends before all are refused
    ],
)
def test_a_trial_has_them_do_what_a_simulation_does(
    accounts: dict[str, Any], blocked_at: int, scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = QuotaConfig(4, scope=scope)  # type: ignore[arg-type]
    study = study_of(accounts, filters=[{"name": "q", **config.to_dict()}])
    monkeypatch.setattr(simulation, "load_inputs", lambda study: (study, digits(study), formula_victim(tmp_path)))
    monkeypatch.setattr(simulation, "make_backend", lambda *where: FormulaBackend())
    rows = attackers(sessions(simulation.simulate(study, tmp_path / "run")))
    rows = rows[rows["population"] == "spread"]
    assert len(rows) == 6
    assert rows["clients_used"].eq(accounts["accounts"]).all()
    assert rows["queries"].eq(blocked_at).all()
    assert rows["outcome"].eq("blocked" if blocked_at < 25 else "exhausted").all()
    assert live_of(study).queries([config]).tolist() == [[blocked_at]]
    assert len(clients_of(study, "search", 10)) == 2


def test_a_calibration_includes_them(calibrate: Callable[[Study], Path]) -> None:
    space = {"n_b": {"max": 10}, "l_sp": {"min": 2, "max": 8}, "t_ssim": {"max": 0.9}, "t_hash": {"min": 0.003}}
    tuning = {"trials": 8, "space": space, "false_positive_budget": 0.9, "grid": {"t_ssim": 6, "t_hash": 6},
              "false_positive_limit": 0.6, "confidence": 0.8}  # fmt: skip
    study = study_of({"accounts": 2}, tuning=tuning)
    run = calibrate(study)
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "complete"
    assert facts["tuning"]["closed_loop"] == ["spread"]
    chosen = read_config(facts["tuning"]["chosen"])
    pareto = pq.read_table(run / "pareto.parquet").to_pandas()
    row = pareto[pareto["chosen"]].iloc[0]
    assert row["queries_to_block"] >= float(live_of(study).queries([chosen])[0, 0])
    # Confirmed in sessions of two clients each, which no replay predicts.
    confirmed = pq.read_table(run / "sessions").to_pandas()
    spread = confirmed[confirmed["population"] == "spread"]
    assert set(spread["client_id"]) == {spec.client_id for spec in clients_of(study, "test", 10)}
    assert set(spread["client_number"]) == {1, 2}
