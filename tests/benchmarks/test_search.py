"""How much of the reference front 300 trials find on the demo, beside random search; and trials a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mifsim.pareto import hypervolume
from mifsim.run.inputs import load_inputs
from mifsim.run.sessions import make_backend
from mifsim.study import Study, Tuning
from tuning import proposals as module
from tuning.objectives import attack_budget
from tuning.proposals import Proposals
from tuning.reference_front import reference_front
from tuning.search import search
from tuning.tracedata import TraceSet
from tuning.traces import load, record
from tuning.trials import Journal, TrialEvaluator

TRIALS = 300


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.load("calibrate-digits")


@pytest.fixture(scope="module")
def traces(study: Study) -> TraceSet:
    """The search split of the demo's sessions, recorded here (a minute or two)."""
    data, victim = load_inputs(study)
    return load(record(study, data, victim, make_backend("ray")).path, study).of_split("search")


def volumes(traces: TraceSet, tuning: Tuning, seed: int) -> float:
    evaluator, points, budget = TrialEvaluator(traces, tuning), [], attack_budget(traces)
    proposals = Proposals(tuning, seed, budget)
    for number in range(TRIALS):
        config = proposals.ask()
        assert config is not None
        found = evaluator.evaluate(config)
        proposals.tell(number, found)
        points.append((found.false_positive_rate, found.queries))
    return hypervolume(points, budget=budget)


def test_share_of_the_reference_hypervolume(
    study: Study, traces: TraceSet, monkeypatch: pytest.MonkeyPatch, measured: Callable[..., None]
) -> None:
    tuning = study.tuning.model_copy(update={"concurrent": 1})  # one after another: no Ray is needed here
    reference = reference_front(traces, tuning, lambda done, total: None).hypervolume
    shares = {}
    for name in ("tpe", "nsga2", "random"):
        if name == "random":  # the startup trials are drawn at random: make them all
            monkeypatch.setattr(module, "STARTUP_TRIALS", TRIALS)
        chosen = tuning.model_copy(update={"sampler": "tpe" if name == "random" else name})
        shares[name] = [volumes(traces, chosen, seed) / reference for seed in range(5)]
        each = ", ".join(f"{share:.3f}" for share in shares[name])
        measured(
            f"{name}, {TRIALS} trials: share of the reference hypervolume, least of seeds ({each})", min(shares[name])
        )
    assert min(shares["tpe"]) >= 0.98
    assert np.mean(shares["random"]) < np.mean(shares["tpe"])


def test_trials_a_second_through_ray_tune(
    study: Study, traces: TraceSet, tmp_path: Path, measured: Callable[..., None]
) -> None:
    from ray import shutdown

    from mifsim.server.ray.cluster import connect

    connect(None)
    try:
        started = time.monotonic()
        trials = search(traces, study, Journal(tmp_path, {}, study.tuning.search_space))
        whole = time.monotonic() - started
    finally:
        shutdown()
    steady = (len(trials) - 20) / (trials[-1].elapsed_seconds - trials[19].elapsed_seconds)
    measured("trials a second through Ray Tune, the actors' start included (aim: 20)", len(trials) / whole)
    measured("trials a second through Ray Tune, once the actors are there (aim: 20)", steady)
