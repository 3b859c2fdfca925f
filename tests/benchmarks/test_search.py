"""Share of the reference hypervolume that 300 trials reach on the demo, by sampler, and trials per second."""

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
from tuning.trace_loading import load
from tuning.tracedata import TraceSet
from tuning.traces import record
from tuning.trials import Journal, TrialEvaluator

TRIALS = 300


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.load("calibrate-digits")


@pytest.fixture(scope="module")
def traces(study: Study) -> TraceSet:
    """The search split of the demo's sessions, which are recorded first (one or two minutes)."""
    study, data, victim = load_inputs(study)
    return load(record(study, data, victim, make_backend("ray")).path, study).of_split("search")


def hypervolume_of_search(traces: TraceSet, tuning: Tuning, seed: int) -> float:
    evaluator, points, budget = TrialEvaluator(traces, tuning), [], attack_budget(traces)
    proposals = Proposals(tuning, seed, budget)
    for number in range(TRIALS):
        config = proposals.ask()
        assert config is not None
        trial = evaluator.evaluate(config)
        proposals.tell(number, trial)
        points.append((trial.false_positive_rate, trial.queries))
    return hypervolume(points, budget=budget)


def test_share_of_the_reference_hypervolume(
    study: Study, traces: TraceSet, monkeypatch: pytest.MonkeyPatch, measured: Callable[..., None]
) -> None:
    tuning = study.tuning.model_copy(update={"concurrent": 1})  # sequential, without Ray
    reference = reference_front(traces, tuning, lambda done, total: None).hypervolume
    shares = {}
    for name in ("tpe", "nsga2", "random"):
        if name == "random":  # startup trials are random: make all trials startup trials
            monkeypatch.setattr(module, "STARTUP_TRIALS", TRIALS)
        tuning_of_sampler = tuning.model_copy(update={"sampler": "tpe" if name == "random" else name})
        shares[name] = [hypervolume_of_search(traces, tuning_of_sampler, seed) / reference for seed in range(5)]
        all_shares = ", ".join(f"{share:.3f}" for share in shares[name])
        measured(
            f"{name}, {TRIALS} trials: share of the reference hypervolume, lowest of seeds ({all_shares})",
            min(shares[name]),
        )
    assert min(shares["tpe"]) >= 0.98
    assert np.mean(shares["random"]) < np.mean(shares["tpe"])


def test_trials_per_second_through_ray_tune(
    study: Study, traces: TraceSet, tmp_path: Path, measured: Callable[..., None]
) -> None:
    from ray import shutdown

    from mifsim.server.ray.cluster import connect

    connect(None)
    try:
        started = time.monotonic()
        trials = search(traces, study, Journal(tmp_path, {}, study.tuning.search_space))
        seconds = time.monotonic() - started
    finally:
        shutdown()
    steady_rate = (len(trials) - 20) / (trials[-1].elapsed_seconds - trials[19].elapsed_seconds)
    measured("trials per second with Ray Tune, including the start of its actors (aim: 20)", len(trials) / seconds)
    measured("trials per second with Ray Tune, excluding the start of its actors (aim: 20)", steady_rate)
