"""Evaluation of trials, and the journal that stores them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.defense import FilterConfig
from mifsim.errors import RunError
from mifsim.study import Tuning
from tests.tuning.sample_traces import ATTACK, USER, random_traces, record
from tests.tuning.search_samples import SPACE, open_journal, trial
from tuning.objectives import evaluate
from tuning.tracedata import TraceSet
from tuning.trials import Journal, TrialEvaluator, TrialResult


def evaluator_of(traces: TraceSet, **tuning: Any) -> TrialEvaluator:
    return TrialEvaluator(traces, Tuning.model_validate(tuning))


def test_a_trial_gives_the_same_result_as_replay() -> None:
    traces = random_traces(np.random.default_rng(0), sessions=80)
    wide = {"space": {"n_b": {"max": 7}}, "false_positive_budget": 1.0}
    config = FilterConfig(0.6, 0.2, 4, 3)
    expected = evaluate(traces, config)
    found = evaluator_of(traces, **wide).evaluate(config)
    assert replace(found, estimates=()) == TrialResult(expected.queries, expected.false_positive_rate, None, 80)
    assert evaluator_of(traces, **wide, leakage=True).evaluate(config).leak == expected.leak


def test_a_configuration_above_the_budget_is_pruned_after_a_quarter_of_the_users() -> None:
    rng = np.random.default_rng(1)
    images = [rng.random((3, 8, 8)) for _ in range(400)]
    traces = record(images, 2, group=np.repeat([ATTACK, USER], 200))
    evaluator = evaluator_of(traces, space={"n_b": {"max": 2}})
    blocks_all = evaluator.evaluate(FilterConfig(-1.0, 1.0, 1, 1))
    assert (blocks_all.false_positive_rate, blocks_all.sessions) == (1.0, 250)
    blocks_none = evaluator.evaluate(FilterConfig(0.99999, 1e-5, 1, 64))
    assert (blocks_none.false_positive_rate, blocks_none.sessions) == (0.0, 400)


def test_estimates_match_the_replay_of_the_first_sessions() -> None:
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
    for rate, queries in found.values():  # an estimate is at least as good
        assert any(one[2] <= rate and one[3] <= queries for one in estimates)


def test_a_journal_keeps_every_whole_line_after_a_kill(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        for number in (0, 2, 1):
            journal.append(trial(number))
    lines = tmp_path / "trials" / "journal.jsonl"
    with lines.open("ab") as file:
        file.write(b'{"number": 3, "conf')  # the process was killed here
    assert open_journal(tmp_path).read() == [trial(0), trial(1), trial(2)]
    with open_journal(tmp_path) as journal:
        journal.append(trial(3))
    assert open_journal(tmp_path).read() == [trial(n) for n in range(4)]


def test_a_finished_journal_is_a_table_with_the_same_trials(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"run_id": "r-1"}, SPACE)
    with journal:
        journal.append(trial(0))
    journal.finish([trial(0), trial(1)])
    assert [path.name for path in (tmp_path / "trials").iterdir()] == ["trials.parquet"]
    assert open_journal(tmp_path).read() == [trial(0), trial(1)]


def test_the_error_names_a_corrupted_journal(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "journal.jsonl").write_text('{"number": 0}\n')
    with pytest.raises(RunError, match=r"journal.jsonl: line 1 is not a trial"):
        open_journal(tmp_path).read()
