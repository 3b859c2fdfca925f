"""What the study and its data decide is refused before a model is prepared and before anything is recorded."""

import pytest

from mifsim.errors import StudyError
from mifsim.run import inputs
from mifsim.study import Study
from tests.tuning.studies import tiny_study
from tuning import bench as comparison
from tuning import tune as calibration
from tuning.splits import check_reach

PAIR = {"user": "independent", "sessions": 12, "length": 4}


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    monkeypatch.setattr(inputs, "prepare_victim", lambda *_: pytest.fail("a model was prepared"))


def refused(study, tmp_path, run=calibration.tune):
    with pytest.raises(StudyError) as caught:
        run(study, tmp_path / "run", backend="in-process")
    assert not (tmp_path / "run").exists()
    return str(caught.value)


def certifiable(**changes):
    """Return the tiny study with limits that few sessions can certify."""
    tuning = {"trials": 2, "false_positive_limit": 0.6, **changes.pop("tuning", {})}
    return tiny_study(tuning=tuning, **changes)


def test_an_attack_with_too_few_trials_for_the_splits(tmp_path):
    attack = {"attack": "mi-face", "labels": [0], "trials": 1, "budget_queries": 5}
    message = refused(certifiable(attacks=[attack]), tmp_path)
    assert "attacks.0.trials = 1: 'mi-face' has no client for each class under attack in the search split" in message
    assert "accepted: 3 or more" in message


def test_a_workload_with_too_few_sessions_for_the_splits(tmp_path):
    splits = {"search": 0.1, "calibration": 0.8, "test": 0.1}
    attack = {"attack": "mi-face", "labels": [0], "trials": 9, "budget_queries": 5}
    study = certifiable(attacks=[attack], users=[{**PAIR, "sessions": 4}], tuning={"splits": splits})
    message = refused(study, tmp_path)
    assert "users.0.sessions = 4: 'independent' has no client in the search split; accepted: 6 or more" in message


def test_sessions_that_need_more_images_than_a_split_has(tmp_path):
    """40 images a class: 12 for users, 4 of each class in each split."""
    message = refused(certifiable(users=[{**PAIR, "user": "one-class", "length": 5}]), tmp_path)
    assert "can need 5 different images of one class, but each of the 3 splits has 4 of '0' of its own" in message


def test_a_class_with_fewer_images_than_splits(tmp_path):
    message = refused(certifiable(data={"images_per_class": 8}, users=[PAIR]), tmp_path)
    assert "tuning.separate_images = true: each split needs images of its own of each class" in message


@pytest.mark.parametrize(
    ("key", "table"),
    [
        ("tuning.compare.0", {"compare": [{"name": "other", "kind": "ssim-hash", "view": {"size": 40}}]}),
        ("tuning", {"view": {"size": 10}, "space": {"ssim": ["gaussian"]}}),
    ],
)
def test_a_detector_that_does_not_accept_the_images(tmp_path, key, table):
    message = refused(certifiable(users=[PAIR], tuning=table), tmp_path)
    assert f"{key}: ssim-hash does not accept images of mnist-5k, of shape (28, 28)" in message


def test_the_same_holds_for_the_detectors_and_the_unseen_users_of_a_comparison(tmp_path):
    plain = certifiable(users=[PAIR]).to_toml()
    detector = {"name": "one", "kind": "quota"}
    small = {"name": "two", "kind": "ssim-hash", "view": {"size": 8}, "space": {"ssim": ["gaussian"]}}
    unseen = {"user": "one-class", "name": "other", "sessions": 10, "length": 9}
    message = refused(Study.parse({**plain, "bench": {"detectors": [detector, small]}}), tmp_path, comparison.bench)
    assert "bench.detectors.1: ssim-hash does not accept images" in message
    message = refused(
        Study.parse({**plain, "bench": {"detectors": [detector], "unseen": [unseen]}}), tmp_path, comparison.bench
    )
    assert "a session of 'other' can need 9 different images of one class" in message


def test_more_decimals_than_float32_has():
    with pytest.raises(StudyError, match=r"server\.response = 'rounded-40'.*1 to 30"):
        tiny_study(server={"response": "rounded-40"})


def test_limits_out_of_reach_are_refused_before_anything_is_written(tmp_path):
    """0.95^59 is the first power below 5%: 59 sessions without a block certify 5%, 58 do not."""
    for sessions, enough in ((146, True), (145, False)):  # the calibration split has clients 58 to 116, or 58 to 115
        users = [{"user": "independent", "sessions": sessions}]
        study = tiny_study(tuning={"false_positive_limit": 0.05, "confidence": 0.95}, users=users)
        if enough:
            check_reach(study)
            continue
        message = r"users\.0\.sessions = 145: 58 of them are in .* needs 59, .* accepted: 146 sessions of 'independent'"
        with pytest.raises(StudyError, match=message):
            calibration.tune(study, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users": []}, r"users: missing; add at least one \[\[users\]\] table"),
        ({"attacks": []}, r"attacks: missing; add at least one \[\[attacks\]\] table"),
        ({"tuning": {"leakage": True}}, "tuning.leakage = true: requires leakage.enabled = true"),
        (
            {"filters": [{"name": "calibrated", "none": True}]},
            "the name 'calibrated' is reserved for the chosen configuration",
        ),
    ],
)
def test_studies_that_cannot_be_calibrated_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(StudyError, match=message):
        calibration.tune(tiny_study(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
