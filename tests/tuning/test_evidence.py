"""Calibration of the kind ``evidence``, whose configurations are derived from the honest sessions."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from mifsim.defense import RecordedSessions, load_config
from mifsim.defense.evidence.config import EvidenceConfig
from mifsim.defense.evidence.flags import FLAGS, LEARNED
from mifsim.defense.evidence.search import config_at, limit_for, radius_at
from mifsim.defense.kinds import read_cells
from mifsim.defense.recording import HonestSessions
from mifsim.defense.space import SearchSpace
from mifsim.errors import ConfigError, StudyError
from mifsim.study import Study
from tests.tuning.kind_studies import REACHABLE
from tests.tuning.studies import tiny_study
from tuning.space import distributions


def honest(lengths, values=None, limits=(0.1,), workload=None):
    """Return honest sessions of these lengths, with the recorded values of ``noisy``."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    given = np.arange(total) if values is None else values
    columns = {"noisy": np.asarray(given, np.float32)}
    groups = np.zeros(len(lengths), np.int32) if workload is None else np.asarray(workload, np.int32)
    return HonestSessions(RecordedSessions(offsets, np.ones(total, np.bool_), columns), groups, limits)


def test_a_radius_is_the_value_beyond_which_the_given_share_of_queries_lies():
    sessions = honest([50, 50])  # noisy is 0, 1, …, 99
    for rate, above, beyond in ((0.1, True, 10), (0.25, True, 25), (0.1, False, 10), (0.25, False, 25)):
        radius = radius_at(sessions, "noisy", 5, 50, rate, above)
        found = sum(value > radius if above else value < radius for value in range(100))
        assert beyond - 1 <= found <= beyond  # sums of weights are rounded


def test_workloads_have_equal_weights_in_a_radius():
    """90 queries of one workload are 0, 10 of the other are 1: each is half of the weight."""
    sessions = honest([90, 10], [0.0] * 90 + [1.0] * 10, (0.1, 0.1), [0, 1])
    assert radius_at(sessions, "noisy", 5, 50, 0.4, True) == 1.0
    assert radius_at(sessions, "noisy", 5, 50, 0.6, True) == 0.0


def test_a_radius_without_finite_values_flags_nothing():
    sessions = honest([4], [np.inf] * 4)
    assert radius_at(sessions, "noisy", 5, 50, 0.3, False) == 0.0


@pytest.mark.parametrize(("share", "limit"), [(0.0, 10.5), (0.9, 10.5), (1.0, 9.5), (2.0, 8.5), (99.0, 1.5)])
def test_a_limit_blocks_at_most_the_share_of_the_false_positive_limit(share, limit):
    """Of ten sessions with the greatest counts 1 to 10, the limit of 10% allows one."""
    sessions = honest([1] * 10, limits=(0.1,))
    counts = np.arange(1.0, 11.0)
    assert limit_for(counts, sessions, share) == limit


def test_a_limit_holds_for_each_workload():
    sessions = honest([1] * 20, limits=(0.1, 0.1), workload=[0] * 10 + [1] * 10)
    counts = np.array([*range(1, 11), *range(101, 111)], dtype=np.float64)
    assert limit_for(counts, sessions, 1.0) == 109.5


@pytest.mark.parametrize(
    ("weights", "on", "limit"),
    [
        ({"noisy": 0.5, "queries": 0.3}, ["noisy", "queries"], 9.5),  # 3/8 of five sessions: one may be blocked
        ({"queries": 0.5}, ["queries"], 5.5),  # all five
        ({"queries": 0.09}, ["queries"], 5.5),  # one flag stays on
    ],
)
def test_flags_with_small_weights_are_left_out_and_the_others_share_the_budget(weights, on, limit):
    """Ten sessions have 1 to 10 queries, and half of them may be blocked."""
    shares = {f"{flag}_share": weights.get(flag, 0.05) for flag in FLAGS}
    values = {**shares, "noisy_rate": 0.1, "noisy_leak": 0.05, "budget": 1.0}
    config = config_at(EvidenceConfig, values, {"k": 5, "memory": 50}, honest(range(1, 11), limits=(0.5,)), {})
    assert [flag.name for flag in config.enabled()] == on
    assert config.queries_limit == limit


def test_the_calibration_derives_certifies_and_confirms_a_configuration(calibrate):
    study = tiny_study(
        tuning={"kind": "evidence", "trials": 25, "space": {"memory": [4, 20], "k": [1, 2]}, **REACHABLE}
    )
    run = calibrate(study)
    facts = json.loads((run / "run.json").read_text())["tuning"]
    chosen = load_config(run / "filter.toml")
    assert isinstance(chosen, EvidenceConfig)
    assert chosen.fit
    assert (run / f"fit-{chosen.fit}.npz").is_file()
    assert (run / "fits" / f"fit-{chosen.fit}.npz").is_file()
    on = [flag.name for flag in chosen.enabled()]
    assert set(facts["ablations"]) == (set(on) if len(on) > 1 else set())
    assert facts["confirmed_sessions"] == len(pq.read_table(run / "sessions"))
    trials = pq.read_table(run / "trials" / "trials.parquet").to_pandas()
    assert len(trials) == 25
    assert set(trials["param_k"]) == {1, 2}
    assert set(trials["param_memory"]) == {4, 20}
    for flag in FLAGS:
        if flag == LEARNED:
            assert not [name for name in trials.columns if flag in name]
        else:
            assert (trials[f"param_{flag}_limit"] >= 0).all()


def test_the_calibration_can_use_the_classifier(calibrate):
    space = {"naturalness": [True], **{f"{flag}_share": {"max": 0.05} for flag in FLAGS if flag != LEARNED}}
    study = tiny_study(tuning={"kind": "evidence", "trials": 6, "space": space, **REACHABLE})
    run = calibrate(study)
    trials = pq.read_table(run / "trials" / "trials.parquet").to_pandas()
    assert trials["param_naturalness"].all()
    assert (trials["param_naturalness_limit"] > 0).any()
    configs = [read_cells(*row) for row in zip(trials["kind"], trials["config"], strict=True)]
    assert [config.naturalness_radius for config in configs] == trials["param_naturalness_radius"].tolist()
    assert Study.load(run / "study.toml").tuning.space["naturalness"] == [True]
    (file,) = (run / "fits").iterdir()
    with np.load(file, allow_pickle=False) as stored:
        assert "tree_child" in stored.files


def test_the_same_study_gives_the_same_trials(calibrate):
    study = tiny_study(tuning={"kind": "evidence", "trials": 8, **REACHABLE})
    first, second = calibrate(study, "first"), calibrate(study, "second")
    tables = [pq.read_table(run / "trials" / "trials.parquet").drop(["elapsed_seconds"]) for run in (first, second)]
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"neighbours_radius": {"min": 0.1}}, "space.neighbours_radius: 'evidence' has no such parameter"),
        ({"noisy_rate": {"max": 2.0}}, "space.noisy_rate.max = 2.0: must be from 0 to 1"),
        ({"k": [11]}, "space.k: 11 is not a valid value"),
        ({"k": [True]}, "space.k: True is not a valid value"),
        ({"naturalness": ["on"]}, r"space.naturalness: 'on' is not a valid value \(accepted: false, true\)"),
        ({"naturalness": [1]}, "space.naturalness: 1 is not a valid value"),
        ({"naturalness_rate": {"max": 0.1}}, r"space.naturalness_rate = .*: without effect \(expected naturalness = "),
        ({"naturalness": [False], "naturalness_share": {}}, "space.naturalness_share = {}: without effect"),
    ],
)
def test_invalid_spaces_are_refused(space, message):
    with pytest.raises(ConfigError, match=message):
        SearchSpace.parse("evidence", space)
    with pytest.raises(StudyError, match=message):
        tiny_study(tuning={"kind": "evidence", "space": space})


def test_a_point_without_honest_sessions_is_an_error():
    with pytest.raises(ValueError, match="are derived from honest sessions; none given"):
        SearchSpace.parse("evidence", {}).config(dict.fromkeys(EvidenceConfig.search_params, 0.5))


def test_a_search_without_the_classifier_does_not_know_its_parameters():
    """Its dimensions, and so the proposals and files, are those of a kind without the flag."""
    space = SearchSpace.parse("evidence", {})
    for names in (space.bounds, space.choices, space.config_params, space.to_dict(), distributions(space)):
        assert not [name for name in names if name.startswith(LEARNED)]
    learned = SearchSpace.parse("evidence", {"naturalness": [True]})
    assert set(learned.bounds) - set(space.bounds) == {f"{LEARNED}_{name}" for name in ("rate", "leak", "share")}
    assert [corner.naturalness for corner in learned.corners()] == [True]
    assert SearchSpace.parse("evidence", learned.to_dict()) == learned
