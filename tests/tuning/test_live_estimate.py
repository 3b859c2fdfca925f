"""The estimate of the sessions that run live in the trials, and of a whole reproduction of the paper."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.tuning.studies import digits, formula_victim, tiny_study
from tuning.live_estimate import live_queries, report_live
from tuning.paper.plan import plan_for
from tuning.paper.reproduction import queries_of_plan

ROTATE = {
    "attack": "mi-face", "labels": [0, 3], "trials": 3, "budget_queries": 25, "beta": 0, "gamma": 0.0,
    "evasions": [{"rotate": {}}],
}  # fmt: skip


def test_closed_loop_attackers_count_in_every_trial_and_others_only_without_a_replay():
    """Six attackers of 25 queries, of which 40% are in the search split; users: 12 sessions of 6, and 12 of 8."""
    open_loop = tiny_study().to_toml()["attacks"]
    assert live_queries(tiny_study(), 10) == 0
    study = tiny_study(attacks=[*open_loop, ROTATE])
    trials, rotating = study.tuning.trials, 6 * 25
    assert live_queries(study, 10) == round(trials * 0.4 * rotating)
    compared = {"compare": [{"name": "quota", "kind": "quota", "trials": 5}], "leave_out": True}
    both = tiny_study(attacks=[*open_loop, ROTATE], tuning={**study.tuning.model_dump(include={"trials"}), **compared})
    # The search, one more without each of the two workloads, and that of the other detector.
    assert live_queries(both, 10) == round(3 * trials * 0.4 * rotating) + round(5 * 0.4 * rotating)


@pytest.mark.usefixtures("kinds")
def test_all_clients_count_in_every_trial_of_a_kind_without_a_replay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    study = tiny_study(tuning={"kind": "test-live-allowance", "trials": 400})
    queries = round(400 * 0.4 * (6 * 25 + 12 * 6 + 12 * 8))
    assert live_queries(study, 10) == queries == 50_880
    victim = formula_victim(tmp_path)
    report_live(study, digits(study), victim)
    assert caplog.messages == []
    victim.facts["images_per_second"] = 10.0
    report_live(study, digits(study), victim)
    (line,) = caplog.messages
    assert line.startswith("about 50,880 queries, if attackers use up their budgets: 1 h 24 min at 10 queries a second")
    assert line.endswith("these run live in the trials of the search")


def test_a_reproduction_is_estimated_by_its_studies() -> None:
    """The small one: 3 attackers per digit, of 200 queries each, in each of its parts."""
    plan = plan_for("mnist-5k", None, small=True)
    attackers, length = 10 * 3 * 200, (20 + 100) / 2
    main = attackers + 4 * 40 * length
    swept, live = 3 * attackers, 5 * attackers
    assert queries_of_plan(plan, 10, calibrates=False) == main + swept + live
    calibrated = 10 * 5 * 200 + 4 * 160 * length
    assert queries_of_plan(plan, 10, calibrates=True) == main + swept + live + calibrated
