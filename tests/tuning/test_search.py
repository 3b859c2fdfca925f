"""The search: proposals depend on results alone, no finished trial is lost, and a resumed search is the same."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense import FilterConfig
from mifsim.defense.ssim_hash.reference_values import threshold_values
from mifsim.errors import RunError, StudyError
from mifsim.study import Tuning
from tests.tuning.studies import serial_search, tiny_study
from tests.tuning.worlds import ATTACK, USER, random_traces, record, recording
from tuning import search as tuning_search
from tuning.objectives import evaluate
from tuning.outcome import found_front, measure
from tuning.proposals import POPULATION, STARTUP_TRIALS, Proposals
from tuning.reference_front import ParetoFront, between, reference_front
from tuning.search import FromProposals, search
from tuning.tracedata import TraceSet
from tuning.trials import Journal, Trial, TrialEvaluator, TrialResult

WIDE = Tuning(space={"ssim": ["global", "uniform"], "count_rule": ["per_match", "per_query"]})
SPACE = WIDE.search_space


def landscape(config: FilterConfig) -> TrialResult:
    """A made-up trade: loose configurations block early and throw users out."""
    loose = (1 - config.t_ssim) * config.t_hash**0.25 * math.sqrt(config.n_b) / config.l_sp
    return TrialResult(1 + 500 / (1 + 200 * loose), min(1.0, loose), None, 10)


def run(proposals: Proposals, trials: int, order: np.random.Generator | None = None) -> list[FilterConfig]:
    """Keep trials under way until none more can start; finish one of them, at random or the oldest; and so on."""
    configs_, under_way = [], []
    while len(configs_) < trials or under_way:
        while len(configs_) < trials and (config := proposals.ask()) is not None:
            under_way.append(len(configs_))
            configs_.append(config)
        number = under_way.pop(0 if order is None else int(order.integers(len(under_way))))
        proposals.tell(number, landscape(configs_[number]))
    return configs_


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_proposals_do_not_depend_on_who_finishes_first(sampler: str) -> None:
    tuning = WIDE.model_copy(update={"sampler": sampler})
    trials = max(STARTUP_TRIALS, POPULATION) + 15  # beyond those that are drawn blindly
    straight = run(Proposals(tuning, 3, 501), trials)
    for seed in range(3):
        assert run(Proposals(tuning, 3, 501), trials, np.random.default_rng(seed)) == straight
    assert run(Proposals(tuning, 4, 501), trials) != straight


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_the_search_learns(sampler: str) -> None:
    tuning = Tuning(sampler=sampler)
    found = [landscape(config) for config in run(Proposals(tuning, 0, 501), 250)]
    queries = np.array([one.queries if one.false_positive_rate <= 0.1 else 501 for one in found])
    assert np.median(queries[-100:]) < 0.75 * np.median(queries[:24])  # the first 24 are drawn blindly


def test_no_more_trials_are_under_way_than_the_study_says() -> None:
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
    for config in run(Proposals(tuning, data.draw(st.integers(0, 2**63 - 1)), 501), 6):
        assert tuning.search_space.contains(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("space", {"t_ssim": {"min": 0.9, "max": 0.5}}, "tuning.space.t_ssim.max = 0.5 is less than min = 0.9"),
        ("space", {"t_ssim": {"max": 1.0}}, "tuning.space.t_ssim.min = 0.3, max = 1.0: must not reach 1"),
        ("space", {"t_ssim": {"min": -1.5}}, "tuning.space.t_ssim.min = -1.5: must be from -1 to 1"),
        ("space", {"t_hash": {"min": 0.0}}, "tuning.space.t_hash.min = 0.0: must be above 0"),
        ("space", {"n_b": {"min": 5, "max": 4}}, "tuning.space.n_b.max = 4 is less than min = 5"),
        ("space", {"l_sp": {"min": 0}}, "tuning.space.l_sp.min = 0: must be from 1 to 65536"),
        ("space", {"ssim": []}, "tuning.space.ssim = .*at least one value .accepted: global, uniform, gaussian"),
        ("space", {"ssim": ["global", "global"]}, "tuning.space.ssim = .*: each may be given once"),
        ("space", {"t_sim": {"max": 0.9}}, "tuning.space.t_sim: .* did you mean 't_ssim'"),
        ("n_b", {"min": 5, "max": 4}, "tuning.space.n_b.max = 4 is less than min = 5"),
        ("kind", "ssim-hsh", "tuning.kind = 'ssim-hsh': .* did you mean 'ssim-hash'"),
        ("kind", "none", "tuning.kind = 'none': has no parameter to search"),
        ("grid", {"l_sp": 5}, "tuning.grid.l_sp: not a parameter of the exhaustive search .accepted: t_ssim, t_hash"),
        ("splits", {"search": 0.5, "calibration": 0.5, "test": 0.5}, "add up to 1.5"),
        ("false_positive_limit", 0.0, "must be between 0 and 1, or a table of such numbers"),
        ("false_positive_limit", {"retries": 0.01}, "expected: every workload, which are independent, retries"),
        ("trails", 7, "did you mean 'trials'"),
    ],
)
def test_bad_bounds_are_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        tiny_study(tuning={key: value})


def evaluator_of(traces: TraceSet, **tuning: Any) -> TrialEvaluator:
    return TrialEvaluator(traces, Tuning.model_validate(tuning))


def test_a_trial_finds_what_replay_finds() -> None:
    traces = random_traces(np.random.default_rng(0), sessions=80)
    wide = {"space": {"n_b": {"max": 7}}, "false_positive_budget": 1.0}
    config = FilterConfig(0.6, 0.2, 4, 3)
    expected = evaluate(traces, config)
    found = evaluator_of(traces, **wide).evaluate(config)
    assert replace(found, estimates=()) == TrialResult(expected.queries, expected.false_positive_rate, None, 80)
    assert evaluator_of(traces, **wide, leakage=True).evaluate(config).leak == expected.leak


def test_a_hopeless_configuration_is_pruned_on_a_quarter_of_the_users() -> None:
    rng = np.random.default_rng(1)
    images = [rng.random((3, 8, 8)) for _ in range(400)]
    traces = record(images, 2, group=np.repeat([ATTACK, USER], 200))
    evaluator = evaluator_of(traces, space={"n_b": {"max": 2}})
    blocks_all = evaluator.evaluate(FilterConfig(-1.0, 1.0, 1, 1))
    assert (blocks_all.false_positive_rate, blocks_all.sessions) == (1.0, 250)
    blocks_none = evaluator.evaluate(FilterConfig(0.99999, 1e-5, 1, 64))
    assert (blocks_none.false_positive_rate, blocks_none.sessions) == (0.0, 400)


def journal_in(folder: Path) -> Journal:
    return Journal(folder, {}, SPACE)


def trial(number: int) -> Trial:
    config = FilterConfig(1 - 0.1 / (number + 3), 1e-3 / 7, 2, number + 1)
    return Trial(number, config, TrialResult(100 / (number + 1), number / 10, None, 5), number / 3)


def test_estimates_are_what_the_sessions_seen_first_show_of_other_buffers_and_limits() -> None:
    traces = random_traces(np.random.default_rng(6), sessions=80)
    space = {"n_b": {"min": 2, "max": 5}, "l_sp": {"min": 2, "max": 6}}
    config = FilterConfig(0.6, 0.2, 4, 3)
    estimates = evaluator_of(traces, space=space, false_positive_budget=0.7).evaluate(config).estimates
    first = traces.is_attack.copy()
    for group in (1, 2, 3):
        first[np.flatnonzero(traces.group == group)[::4]] = True
    seen = traces.subset(first)
    found = {}
    for n_b, l_sp in itertools.product(range(2, 6), range(2, 7)):
        done = evaluate(seen, replace(config, n_b=n_b, l_sp=l_sp))
        if done.false_positive_rate <= 0.7:
            found[n_b, l_sp] = done.false_positive_rate, done.queries
    assert estimates
    for n_b, l_sp, *objectives in estimates:
        assert found[n_b, l_sp] == tuple(objectives)
    for rate, queries in found.values():  # nothing is better than all estimates
        assert any(one[2] <= rate and one[3] <= queries for one in estimates)


def test_a_promising_estimate_is_followed_with_the_thresholds_it_came_from() -> None:
    proposals = Proposals(Tuning(concurrent=1), 0, 501)
    configs_ = []
    for number in range(STARTUP_TRIALS + 2):
        config = proposals.ask()
        assert config is not None
        configs_.append(config)
        estimates = ((7, 9, 0.01, 20.0), (3, 5, 0.01, 30.0)) if number == 5 else ()
        proposals.tell(number, TrialResult(400.0, 0.05, None, 10, estimates))
    assert replace(configs_[5], n_b=7, l_sp=9) in configs_[STARTUP_TRIALS:]
    assert replace(configs_[5], n_b=3, l_sp=5) not in configs_  # beaten by the other estimate


def test_a_killed_journal_keeps_every_whole_line(tmp_path: Path) -> None:
    with journal_in(tmp_path) as journal:
        for number in (0, 2, 1):
            journal.append(trial(number))
    lines = tmp_path / "trials" / "journal.jsonl"
    with lines.open("ab") as file:
        file.write(b'{"number": 3, "conf')  # the kill came here
    assert journal_in(tmp_path).read() == [trial(0), trial(1), trial(2)]
    with journal_in(tmp_path) as journal:
        journal.append(trial(3))
    assert journal_in(tmp_path).read() == [trial(n) for n in range(4)]


def test_a_finished_journal_is_a_table_that_reads_back_the_same(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"run_id": "r-1"}, SPACE)
    with journal:
        journal.append(trial(0))
    journal.finish([trial(0), trial(1)])
    assert [path.name for path in (tmp_path / "trials").iterdir()] == ["trials.parquet"]
    assert journal_in(tmp_path).read() == [trial(0), trial(1)]


def test_a_spoilt_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "journal.jsonl").write_text('{"number": 0}\n')
    with pytest.raises(RunError, match=r"journal.jsonl: line 1 is not a trial"):
        journal_in(tmp_path).read()


def test_the_journal_of_another_search_is_refused() -> None:
    seen: list[int] = []
    searcher = FromProposals(
        Proposals(Tuning(), 0, 501), {0: trial(0)}, lambda number, config, result: seen.append(number)
    )
    assert searcher.suggest("a") == FromProposals.FINISHED
    assert searcher.mismatch is not None
    assert "cannot be resumed" in searcher.mismatch


@pytest.mark.usefixtures("local_ray")
def test_a_search_through_ray_tune_is_resumed_to_the_same_table(tmp_path: Path) -> None:
    """Whole; and once more after a kill that left seven trials, out of order, and part of a line."""
    study = tiny_study(tuning={"trials": 30, "space": {"n_b": {"max": 7}}, "false_positive_budget": 0.5})
    traces = random_traces(np.random.default_rng(2), sessions=60)
    whole = search(traces, study, journal_in(tmp_path / "whole"))
    alone = serial_search(traces, study, journal_in(tmp_path / "alone"))
    assert [(one.number, one.config, one.result) for one in whole] == [
        (one.number, one.config, one.result) for one in alone
    ]

    killed = tmp_path / "killed"
    with journal_in(killed) as journal:
        for number in (1, 0, 2, 4, 3, 5, 8):
            journal.append(whole[number])
    with (killed / "trials" / "journal.jsonl").open("ab") as file:
        file.write(json.dumps({"number": 6}).encode()[:5])
    again = search(traces, study, journal_in(killed))
    assert [(one.number, one.config, one.result) for one in again] == [
        (one.number, one.config, one.result) for one in whole
    ]
    kept = {one.number: one.elapsed_seconds for one in again}
    assert all(kept[number] == whole[number].elapsed_seconds for number in (0, 1, 2, 3, 4, 5, 8))
    assert min(kept[number] for number in (6, 7, 9)) > whole[8].elapsed_seconds


@pytest.mark.usefixtures("local_ray")
def test_a_search_whose_trial_tune_gave_up_goes_on_to_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(tuning={"trials": 6, "space": {"n_b": {"max": 7}}, "false_positive_budget": 0.5})
    traces = random_traces(np.random.default_rng(2), sessions=60)
    whole = search(traces, study, journal_in(tmp_path / "whole"))
    fit = tuning_search._fit
    gave_up: list[str | None] = []

    def fit_but_once(*arguments: Any) -> None:
        if gave_up:
            fit(*arguments)
            return
        searcher = next(one for one in arguments if isinstance(one, FromProposals))
        # As Tune does where it notices an actor's death twice: one trial finishes, the next one is given up.
        for trial_id in ("a", "b"):
            searcher.suggest(trial_id)
        result = {key: getattr(whole[0].result, key) for key in TrialResult.__dataclass_fields__}
        searcher.on_trial_complete("a", result)
        searcher.on_trial_complete("b", error=True)
        assert searcher.suggest("c") == FromProposals.FINISHED
        gave_up.append(searcher.trial_error)

    monkeypatch.setattr(tuning_search, "_fit", fit_but_once)
    again = search(traces, study, journal_in(tmp_path / "again"))
    assert gave_up == [f"trial 1 failed: {whole[1].config}"]
    assert [(one.number, one.config, one.result) for one in again] == [
        (one.number, one.config, one.result) for one in whole
    ]


@pytest.mark.usefixtures("local_ray")
def test_a_failing_trial_ends_the_search_with_its_configuration(tmp_path: Path) -> None:
    study = tiny_study(tuning={"trials": 4, "space": {"n_b": {"min": 9, "max": 10}}})
    traces = random_traces(np.random.default_rng(3), n_b_max=7)  # too short a buffer for what is asked
    with pytest.raises(RunError, match=r"trial \d failed: FilterConfig"):
        search(traces, study, journal_in(tmp_path))


def test_the_front_leaves_out_what_was_pruned_or_is_above_the_budget() -> None:
    study = tiny_study()
    rows = [(9.0, 0.0, 40), (5.0, 0.05, 40), (7.0, 0.05, 40), (1.0, 0.5, 40), (2.0, 0.0, 10)]
    trials = [
        Trial(n, FilterConfig(0.9, 0.1, 1, n + 1), TrialResult(queries, rate, None, sessions), 0.0)
        for n, (queries, rate, sessions) in enumerate(rows)
    ]
    assert [one.number for one in found_front(trials, 40, study)] == [0, 1]
    assert found_front(trials[3:4], 40, study) == []


def test_the_finer_grid_fills_the_cells_beside_the_best() -> None:
    grid = np.array([1.0, 4.0, 16.0, 64.0, 256.0])
    assert between(grid, [4.0], 2).tolist() == pytest.approx([1, 2, 4, 8, 16])
    assert between(grid, [1.0], 1).tolist() == pytest.approx([1, 2, 4])
    assert between(grid, [256.0, 64.0], 2).tolist() == pytest.approx([16, 32, 64, 128, 256])


def test_no_configuration_on_the_grids_beats_the_reference_front() -> None:
    traces = random_traces(np.random.default_rng(5), sessions=60)
    space = {"n_b": {"max": 3}, "l_sp": {"max": 4}}
    tuning = Tuning(space=space, grid={"t_ssim": 4, "t_hash": 4}, false_positive_budget=0.8)
    done: list[tuple[int, int]] = []
    found = reference_front(traces, tuning, lambda *told: done.append(told))
    bounds = {"t_ssim": (0.3, 0.99999), "t_hash": (1e-5, 0.3)}
    coarse = threshold_values(recording(traces), "global", bounds, {"t_ssim": 4, "t_hash": 4})
    for config, point in zip(found.configs, found.points, strict=True):
        one = evaluate(traces, config)
        assert (one.false_positive_rate, one.queries) == tuple(point)
    for t_ssim, t_hash, n_b, l_sp in itertools.product(coarse["t_ssim"], coarse["t_hash"], range(1, 4), range(1, 5)):
        one = evaluate(traces, FilterConfig(t_ssim, t_hash, n_b, l_sp))
        if one.false_positive_rate <= 0.8:
            assert (found.points <= [one.false_positive_rate, one.queries]).all(axis=1).any()
    assert done[-1][0] == done[-1][1] == found.tried // (3 * 4)
    assert found.tried > 16 * 3 * 4


def test_progress_counts_the_trials_to_98_percent() -> None:
    """One attack of budget 100: from 10 queries at no false positive, half of the region (1 of 2 decades)."""
    attack = {"attack": "mi-face", "budget_queries": 100}
    study = tiny_study(attacks=[attack])
    exact = ParetoFront((FilterConfig(0.9, 0.1, 1, 1),), np.array([[0.0, 10.0]]), 0.5, 1)
    config = FilterConfig(0.9, 0.1, 1, 1)
    trials = [
        Trial(n, config, TrialResult(queries, 0.0, None, 2), 0.0) for n, queries in enumerate([100.0, 50.0, 10.0, 10.0])
    ]
    progress = measure(trials, exact, study)
    assert progress.trials_to_98 == 3
    assert progress.share == pytest.approx(1.0)
    assert progress.reference_hypervolume == pytest.approx(0.5)
    early = measure(trials[:2], exact, study)
    assert early.trials_to_98 is None
    assert early.share == pytest.approx((1 - math.log(50) / math.log(100)) / 0.5)
