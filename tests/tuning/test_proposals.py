"""Proposals: they depend on the results alone, improve with them, and stay within the bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense import FilterConfig
from mifsim.defense.osd_l2 import OsdL2Config
from mifsim.study import Tuning
from tests.tuning.search_samples import WIDE
from tuning.proposals import POPULATION, STARTUP_TRIALS, Proposals
from tuning.trials import TrialResult


def landscape(config: FilterConfig) -> TrialResult:
    """Return a synthetic result: strict configurations block attacks early, but also block users."""
    strictness = (1 - config.t_ssim) * config.t_hash**0.25 * math.sqrt(config.n_b) / config.l_sp
    return TrialResult(1 + 500 / (1 + 200 * strictness), min(1.0, strictness), None, 10)


def run_trials(proposals: Proposals, trials: int, order: np.random.Generator | None = None) -> list[FilterConfig]:
    """Start as many trials as allowed, finish the oldest or a random one, and repeat; return all proposals."""
    configs, running = [], []
    while len(configs) < trials or running:
        while len(configs) < trials and (config := proposals.ask()) is not None:
            running.append(len(configs))
            configs.append(config)
        number = running.pop(0 if order is None else int(order.integers(len(running))))
        proposals.tell(number, landscape(configs[number]))
    return configs


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_proposals_do_not_depend_on_the_order_of_results(sampler: str) -> None:
    tuning = WIDE.model_copy(update={"sampler": sampler})
    trials = max(STARTUP_TRIALS, POPULATION) + 15  # more than the random ones at the start
    straight = run_trials(Proposals(tuning, 3, 501), trials)
    for seed in range(3):
        assert run_trials(Proposals(tuning, 3, 501), trials, np.random.default_rng(seed)) == straight
    assert run_trials(Proposals(tuning, 4, 501), trials) != straight


def run_osd(seed: int, order: np.random.Generator | None = None) -> list[tuple[float, int]]:
    """Run 120 trials of a kind without swept parameters; return their thresholds and limits."""
    proposals, running, found = Proposals(Tuning(kind="osd-l2"), seed, 501), [], []
    while len(found) < 120 or running:
        while len(found) < 120 and (config := proposals.ask()) is not None:
            assert isinstance(config, OsdL2Config)
            running.append(len(found))
            found.append((config.threshold, config.limit))
        number = running.pop(0 if order is None else int(order.integers(len(running))))
        threshold, limit = found[number]
        miss = abs(math.log(threshold / 2.5)) + abs(math.log(limit / 7))  # the best one is at 2.5 and 7
        proposals.tell(number, TrialResult(5 + 100 * miss, 0.0, None, 10))
    return found


def test_variations_do_not_depend_on_the_order_of_results_and_approach_the_best() -> None:
    straight = run_osd(3)
    assert run_osd(3, np.random.default_rng(0)) == straight
    assert run_osd(4) != straight
    varied = straight[STARTUP_TRIALS + 1 :: 2]
    assert min(abs(math.log(threshold / 2.5)) + abs(math.log(limit / 7)) for threshold, limit in varied) < 0.1


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_proposals_improve_with_results(sampler: str) -> None:
    tuning = Tuning(sampler=sampler)
    found = [landscape(config) for config in run_trials(Proposals(tuning, 0, 501), 250)]
    queries = np.array([one.queries if one.false_positive_rate <= 0.1 else 501 for one in found])
    assert np.median(queries[-100:]) < 0.75 * np.median(queries[:24])  # the first 24 are random


def test_concurrent_trials_are_limited() -> None:
    proposals = Proposals(Tuning(concurrent=3), 0, 501)
    assert [proposals.ask() is None for _ in range(5)] == [False, False, False, True, True]
    proposals.tell(1, landscape(FilterConfig(0.9, 0.1, 1, 1)))
    assert proposals.ask() is None  # trial 3 waits for the result of trial 0
    proposals.tell(0, landscape(FilterConfig(0.9, 0.1, 1, 1)))
    assert proposals.ask() is not None


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_every_proposal_is_within_the_bounds(data: st.DataObject) -> None:
    def bounds(low: float, high: float, **more: bool) -> dict[str, float]:
        ends = sorted(data.draw(st.lists(st.floats(low, high, **more), min_size=2, max_size=2)))
        return {"min": ends[0], "max": ends[1]}

    def whole(high: int) -> dict[str, int]:
        ends = sorted(data.draw(st.lists(st.integers(1, high), min_size=2, max_size=2)))
        return {"min": ends[0], "max": ends[1]}

    tuning = Tuning.model_validate(
        {
            "space": {
                "t_ssim": bounds(-0.9, 0.9999), "t_hash": bounds(1e-6, 1.0), "n_b": whole(64), "l_sp": whole(200)
            }
        }
    )  # fmt: skip
    for config in run_trials(Proposals(tuning, data.draw(st.integers(0, 2**63 - 1)), 501), 6):
        assert tuning.search_space.contains(config)


def test_a_warm_start_candidate_keeps_the_thresholds_of_its_trial() -> None:
    proposals = Proposals(Tuning(concurrent=1), 0, 501)
    configs = []
    for number in range(STARTUP_TRIALS + 2):
        config = proposals.ask()
        assert config is not None
        configs.append(config)
        estimates = ((7, 9, 0.01, 20.0), (3, 5, 0.01, 30.0)) if number == 5 else ()
        proposals.tell(number, TrialResult(400.0, 0.05, None, 10, estimates))
    assert replace(configs[5], n_b=7, l_sp=9) in configs[STARTUP_TRIALS:]
    assert replace(configs[5], n_b=3, l_sp=5) not in configs  # dominated by the other estimate
