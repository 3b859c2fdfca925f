"""Victims and evaluators: training, cached files, recorded facts, and model files of users."""

import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pydantic import ValidationError

from mifsim.data import DataConfig, load_data
from mifsim.errors import VictimError
from mifsim.victims import VictimConfig, prepare_evaluator, prepare_victim, trained


def weights(path, keras):
    return keras.saving.load_model(path, compile=False).get_weights()


def test_a_victim_is_trained_once_and_recorded(grey, keras, caplog):
    caplog.set_level(logging.INFO, logger="mifsim")
    victim = prepare_victim(grey, VictimConfig(epochs=12))
    lines = list(caplog.messages)
    assert not victim.cached
    assert lines[0] == "training lenet5 on 90 images of blobs: 12 epochs of 2 steps, with at most 32 images in a step"
    assert f"accuracy {victim.test_accuracy:.1%}" in lines[-1]
    again = prepare_victim(grey, VictimConfig(epochs=12))
    assert again.cached
    assert len(caplog.messages) == len(lines)  # no progress lines the second time
    assert again.facts == victim.facts
    assert again.fingerprint == victim.fingerprint
    assert json.loads(json.dumps(victim.facts)) == victim.facts
    for key, value in {
        "model": "lenet5",
        "train_images": 90,
        "epochs": 12,
        "seed": 0,
        "test_images": 54,
    }.items():
        assert victim.facts[key] == value


def test_two_runs_that_need_the_same_victim_at_the_same_time_train_it_once(grey):
    config = VictimConfig(epochs=1, seed=5)
    with ThreadPoolExecutor(2) as pool:  # the lock is per open file, so threads exclude each other as processes do
        victims = list(pool.map(lambda _: prepare_victim(grey, config), range(2)))
    assert sorted(victim.cached for victim in victims) == [False, True]
    assert victims[0].facts == victims[1].facts


def test_the_recorded_accuracy_is_that_of_the_file_on_the_users_subset(grey):
    victim = prepare_victim(grey, VictimConfig(epochs=12))
    engine = victim.source().engine(grey.shape, 3)
    users = grey.subset("users")
    confidence, _ = engine.predict(users.images(np.arange(len(users))), np.full(len(users), -1, np.int32))
    assert np.mean(confidence.argmax(axis=1) == users.labels) == pytest.approx(victim.test_accuracy)


def test_colour_data_gets_the_cnn_unless_a_model_is_configured(colour):
    assert prepare_victim(colour, VictimConfig(epochs=1)).facts["model"] == "cnn"
    assert prepare_victim(colour, VictimConfig(model="lenet5", epochs=1)).facts["model"] == "lenet5"


def test_another_seed_number_of_epochs_or_data_set_gives_another_fingerprint(grey, colour):
    fingerprints = [
        prepare_victim(data, VictimConfig(model="lenet5", **keys)).fingerprint
        for data, keys in [
            (grey, {"epochs": 1}),
            (grey, {"epochs": 1, "seed": 1}),
            (grey, {"epochs": 2}),
            (colour, {"epochs": 1}),
        ]
    ]
    assert len(set(fingerprints)) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1] + b"x",
        pytest.param(lambda data: data[:-10], marks=pytest.mark.slow),
        pytest.param(lambda data: b"", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_cache_file_is_trained_again_to_the_same_weights(grey, keras, damage):
    config = VictimConfig(epochs=1, seed=3)
    first = prepare_victim(grey, config)
    before = weights(first.path, keras)
    first.path.write_bytes(damage(first.path.read_bytes()))
    second = prepare_victim(grey, config)
    assert not second.cached
    assert second.fingerprint == first.fingerprint
    for one, two in zip(before, weights(second.path, keras), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_model_is_trained_again_when_its_source_code_has_changed(grey, monkeypatch):
    config = VictimConfig(epochs=1, seed=4)
    first = prepare_victim(grey, config)
    assert prepare_victim(grey, config).cached
    for program in (trained.PROGRAMS[0], trained.PROGRAMS[-1]):  # each training takes seconds
        monkeypatch.setattr(trained, "PROGRAMS", [other for other in trained.PROGRAMS if other != program])
        again = prepare_victim(grey, config)
        assert not again.cached
        assert again.fingerprint == first.fingerprint


def test_a_cache_folder_that_cannot_be_written_is_reported(grey, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(VictimError, match=r"cache folder .*set MIFSIM_CACHE_DIR"):
        prepare_victim(grey, VictimConfig(epochs=1))


def save_model(keras, path, activation):
    model = keras.Sequential(
        [
            keras.layers.Input((12, 14, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation=activation),
        ]
    )
    model.save(path)


def test_a_model_file_of_a_user_is_checked_once(grey, keras, tmp_path):
    path = tmp_path / "user.keras"
    save_model(keras, path, None)
    config = VictimConfig(file=path, output="logits", accept_any_accuracy=True)
    first, second = prepare_victim(grey, config), prepare_victim(grey, config)
    assert (first.cached, second.cached) == (False, True)
    assert first.source().config.output == "logits"
    assert first.path == path
    assert 0 <= first.test_accuracy == second.test_accuracy <= 1
    assert first.facts["file"] == str(path)
    with pytest.raises(VictimError, match=r"set victim\.output = 'logits'"):
        prepare_victim(grey, VictimConfig(file=path))
    save_model(keras, path, "softmax")  # the file changes under the same name
    changed = prepare_victim(grey, VictimConfig(file=path, accept_any_accuracy=True))
    assert changed.fingerprint != first.fingerprint
    with pytest.raises(VictimError, match=r"gone\.keras: cannot be read"):
        prepare_victim(grey, VictimConfig(file=tmp_path / "gone.keras"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"file": "m.keras", "model": "cnn"}, "'model' and 'file' cannot be combined"),
        ({"file": "m.keras", "epochs": 3}, "'epochs' applies to a model to train"),
        ({"output": "logits"}, "'output' applies to an existing model"),
        ({"model": "vgg"}, "unknown victim model 'vgg' .accepted: lenet5, cnn"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"epoch": 3}, "Extra inputs"),
    ],
)
def test_invalid_or_incompatible_keys_are_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        VictimConfig(**keys)


def test_a_cached_victim_is_prepared_without_importing_tensorflow(cache_folder):
    prepare_victim(load_data(DataConfig(images_per_class=20)), VictimConfig(epochs=1))
    code = (
        "import sys; from mifsim.data import *; from mifsim.victims import *; "
        "victim = prepare_victim(load_data(DataConfig(images_per_class=20)), VictimConfig(epochs=1)); "
        "print(victim.cached, len(victim.source().content) > 1000, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False"]


def test_the_evaluator_gives_confidences_and_features_that_separate_classes(colour):
    prepared = prepare_evaluator(colour)
    assert prepared.facts["trained_on"] == ["private", "evaluator"]
    assert prepared.test_accuracy > 0.9
    evaluator = prepared.load()
    users = colour.subset("users")
    images = users.images(np.arange(len(users)))
    confidence, features = evaluator.measure(images)
    assert np.mean(confidence.argmax(axis=1) == users.labels) == pytest.approx(prepared.test_accuracy)
    np.testing.assert_allclose(confidence.sum(axis=1), 1, atol=1e-5)
    distance = np.linalg.norm(features[:, None] - features[None], axis=2)
    same_class = users.labels[:, None] == users.labels[None]
    assert distance[same_class].mean() < 0.5 * distance[~same_class].mean()
    with pytest.raises(ValueError, match="expected"):
        evaluator.measure(images[..., 0])


def test_the_results_of_the_evaluator_do_not_depend_on_the_batch(colour):
    evaluator = prepare_evaluator(colour).load()
    images = colour.subset("users").images(np.arange(40))
    confidence, features = evaluator.measure(images[17:18])
    batched = evaluator.measure(np.concatenate([images] * 8))
    np.testing.assert_array_equal(batched[1][40 * 5 + 17], features[0])
    np.testing.assert_array_equal(batched[0][17], confidence[0])


def test_lenet5_reaches_the_expected_accuracy_on_real_digits():
    """The accuracy is at least 93% on the users' 1,500 digits, after training on the private 2,500."""
    victim = prepare_victim(load_data(DataConfig()), VictimConfig())
    assert victim.facts["train_images"] == 2500
    assert victim.test_accuracy >= 0.93


@pytest.mark.slow
def test_the_evaluator_reaches_the_expected_accuracy_on_real_digits():
    """The accuracy is at least 96%, after training on the private and the evaluator subset."""
    assert prepare_evaluator(load_data(DataConfig())).test_accuracy >= 0.96


@pytest.mark.slow
def test_accuracy_on_rendered_faces_is_neither_too_low_nor_too_high():
    accuracy = prepare_victim(load_data(DataConfig(set="faces")), VictimConfig()).test_accuracy
    assert 0.85 <= accuracy <= 0.97
