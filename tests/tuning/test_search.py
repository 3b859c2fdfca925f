"""The search through Ray Tune, and its resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.errors import RunError
from mifsim.study import Tuning
from tests.tuning.sample_traces import random_traces
from tests.tuning.search_samples import open_journal, trial
from tests.tuning.studies import serial_search, tiny_study
from tuning import search as tuning_search
from tuning.proposals import Proposals
from tuning.search import FromProposals, search
from tuning.trials import TrialResult


def test_the_journal_of_another_search_is_refused() -> None:
    seen: list[int] = []
    searcher = FromProposals(
        Proposals(Tuning(), 0, 501), {0: trial(0)}, lambda number, config, result: seen.append(number)
    )
    assert searcher.suggest("a") == FromProposals.FINISHED
    assert searcher.mismatch is not None
    assert "cannot be resumed" in searcher.mismatch


@pytest.mark.usefixtures("local_ray")
def test_a_resumed_search_gives_the_same_trials(tmp_path: Path) -> None:
    """A whole search equals a serial one, and one resumed from seven trials, out of order, and a part of a line."""
    study = tiny_study(tuning={"trials": 30, "space": {"n_b": {"max": 7}}, "false_positive_budget": 0.5})
    traces = random_traces(np.random.default_rng(2), sessions=60)
    whole = search(traces, study, open_journal(tmp_path / "whole"))
    serial = serial_search(traces, study, open_journal(tmp_path / "alone"))
    assert [(one.number, one.config, one.result) for one in whole] == [
        (one.number, one.config, one.result) for one in serial
    ]

    killed = tmp_path / "killed"
    with open_journal(killed) as journal:
        for number in (1, 0, 2, 4, 3, 5, 8):
            journal.append(whole[number])
    with (killed / "trials" / "journal.jsonl").open("ab") as file:
        file.write(json.dumps({"number": 6}).encode()[:5])
    resumed = search(traces, study, open_journal(killed))
    assert [(one.number, one.config, one.result) for one in resumed] == [
        (one.number, one.config, one.result) for one in whole
    ]
    kept = {one.number: one.elapsed_seconds for one in resumed}
    assert all(kept[number] == whole[number].elapsed_seconds for number in (0, 1, 2, 3, 4, 5, 8))
    assert min(kept[number] for number in (6, 7, 9)) > whole[8].elapsed_seconds


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_search_continues_after_tune_dropped_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study(tuning={"trials": 6, "space": {"n_b": {"max": 7}}, "false_positive_budget": 0.5})
    traces = random_traces(np.random.default_rng(2), sessions=60)
    whole = search(traces, study, open_journal(tmp_path / "whole"))
    fit = tuning_search._fit
    errors: list[str | None] = []

    def drop_a_trial_once(*arguments: Any) -> None:
        if errors:
            fit(*arguments)
            return
        searcher = next(one for one in arguments if isinstance(one, FromProposals))
        # As in Tune when it notices the death of an actor twice: one trial finishes, and Tune drops the next one.
        for trial_id in ("a", "b"):
            searcher.suggest(trial_id)
        result = {key: getattr(whole[0].result, key) for key in TrialResult.__dataclass_fields__}
        searcher.on_trial_complete("a", result)
        searcher.on_trial_complete("b", error=True)
        assert searcher.suggest("c") == FromProposals.FINISHED
        errors.append(searcher.trial_error)

    monkeypatch.setattr(tuning_search, "_fit", drop_a_trial_once)
    again = search(traces, study, open_journal(tmp_path / "again"))
    assert errors == [f"trial 1 failed: {whole[1].config}"]
    assert [(one.number, one.config, one.result) for one in again] == [
        (one.number, one.config, one.result) for one in whole
    ]


@pytest.mark.usefixtures("local_ray")
def test_a_failing_trial_ends_the_search_and_names_its_configuration(tmp_path: Path) -> None:
    study = tiny_study(tuning={"trials": 1, "space": {"n_b": {"min": 9, "max": 10}}})
    traces = random_traces(np.random.default_rng(3), n_b_max=7)  # the recording is too short for n_b = 9
    with pytest.raises(RunError, match=r"trial \d failed: FilterConfig"):
        search(traces, study, open_journal(tmp_path))
