"""Checks of models against the data: what is accepted, refused, advised and recorded."""

from dataclasses import replace

import numpy as np
import pytest

from mifsim.errors import VictimError
from mifsim.victims import VictimConfig, prepare_victim
from mifsim.victims.engines.keras import KerasEngine
from mifsim.victims.model_check import study_reading
from mifsim.victims.reading import Reading
from tests.victims.tints import CLASSES, SHAPE, tint_model, tints

FITTING = '["yellow", "green", "red"]'
"""The order of the outputs of a permuted model, as TOML."""


@pytest.fixture(scope="module")
def data():
    return tints()


def prepare(data, model, folder, **keys):
    path = folder / f"model-{len(list(folder.iterdir()))}.keras"
    model.save(path)
    return prepare_victim(data, VictimConfig(file=path, **keys))


def refusal(data, model, folder, **keys):
    with pytest.raises(VictimError) as caught:
        prepare(data, model, folder, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_right_model_is_accepted_and_measured(data, tmp_path, caplog):
    victim = prepare(data, tint_model(), tmp_path)
    assert victim.reading == Reading()
    assert victim.test_accuracy == 1
    facts = victim.facts
    assert (facts["test_images"], facts["beats_chance"], facts["gives_gradients"]) == (36, "better", True)
    assert facts["test_accuracy_interval"] == pytest.approx([0.025 ** (1 / 36), 1])
    assert facts["chance"] == pytest.approx(1 / 3)
    assert "accept_any_accuracy" not in facts
    assert "advice" not in facts
    assert not caplog.messages


def test_outputs_in_another_order_are_refused_with_the_order_that_fits(data, tmp_path):
    message = refusal(data, tint_model(order=(2, 0, 1)), tmp_path)
    assert "0.00% of 36 images (95% interval 0.0% to 9.7%), is not better than chance, 33.33%" in message
    assert f"with victim.labels = {FITTING}, it classifies 100.00% of 36 images correctly" in message
    assert "set victim.accept_any_accuracy = true" in message
    right = prepare(data, tint_model(order=(2, 0, 1)), tmp_path, labels=("yellow", "green", "red"))
    assert right.test_accuracy == 1
    assert right.facts["labels"] == ["yellow", "green", "red"]


def test_gradients_pass_through_every_part_of_the_reading(data, tmp_path):
    """A model of logits in another order, of blue, green and red from -1 to 1, against finite differences."""
    model = tint_model(order=(2, 0, 1), scale=2.0, offset=-1.0, reverse=True, activation=None)
    keys = {
        "labels": ("yellow", "green", "red"),
        "input": {"scale": 2, "offset": -1, "channels": "bgr"},
        "output": "logits",
    }
    victim = prepare(data, model, tmp_path, **keys)
    assert victim.test_accuracy == 1
    plain = prepare(data, tint_model(), tmp_path).load(SHAPE, 3, 8)
    images = np.random.default_rng(0).uniform(0.45, 0.75, (6, *SHAPE)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2], np.int32)
    with victim.load(SHAPE, 3, 8) as engine:
        confidence, gradients = engine.predict(images, labels)
        for found, expected in zip((confidence, gradients), plain.predict(images, labels), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        for number in range(6):
            step = np.random.default_rng(number).normal(size=SHAPE).astype(np.float32) / 64
            ahead, behind = (
                engine.predict((images[number] + sign * step)[None], np.full(1, -1, np.int32))[0][0, labels[number]]
                for sign in (1, -1)
            )
            slope = float(np.sum(gradients[number] * step))
            assert (ahead - behind) / 2 == pytest.approx(slope, rel=0.05, abs=1e-4)


@pytest.mark.parametrize("kind", ["Rescaling", "Normalization", "BatchNormalization"])
def test_a_model_made_for_larger_pixels_is_refused_by_the_name_of_its_layer(data, tmp_path, keras, kind):
    model = tint_model(before=layer(keras, kind), bias=(2, 0, -24))
    message = refusal(data, model, tmp_path)
    assert f"its layer 'pixels' ({kind}) is made for pixels from 0 to 255, but receives them in the range [0, 1]" in (
        message
    )
    assert "with victim.input = { scale = 255.0 }, it classifies 100.00% of 36 images correctly" in message
    assert prepare(data, model, tmp_path, input={"scale": 255}).test_accuracy == 1


@pytest.mark.parametrize("kind", ["Rescaling", "Normalization", "BatchNormalization"])
def test_a_model_whose_labels_are_right_in_the_wrong_range_is_accepted_with_the_name_of_its_layer(
    data, tmp_path, keras, kind, caplog
):
    # Without a bias, the largest output is the same in any range; the confidences are almost equal in the wrong one.
    homogeneous = {"weights": np.array([[-20.0, 20.0, 8.0], [20.0, -20.0, 8.0], [0.0, 0.0, 0.0]]), "bias": (0, 0, 0)}
    model = tint_model(before=layer(keras, kind), **homogeneous)
    victim = prepare(data, model, tmp_path)
    assert victim.test_accuracy == 1
    assert (
        f"its layer 'pixels' ({kind}) is made for pixels from 0 to 255, but receives them in the range" in caplog.text
    )
    assert "its confidences are not what it was trained to give" in caplog.text
    caplog.clear()
    prepare(data, model, tmp_path, input={"scale": 255})
    prepare(data, tint_model(**homogeneous), tmp_path)
    assert "its layer" not in caplog.text


def layer(keras, kind):
    if kind == "Rescaling":
        return keras.layers.Rescaling(1 / 255, name="pixels")
    if kind == "Normalization":
        return keras.layers.Normalization(mean=[0.0] * 3, variance=[255.0**2] * 3, name="pixels")
    made = keras.layers.BatchNormalization(center=False, scale=False, epsilon=0.0, name="pixels")
    made.build((None, *SHAPE))
    made.set_weights([np.zeros(3), np.full(3, 255.0**2)])
    return made


def test_swapped_channels_are_refused_with_their_order(data, tmp_path):
    model = tint_model(reverse=True, bias=(2, 0, -24))
    message = refusal(data, model, tmp_path)
    assert 'with victim.input = { channels = "bgr" }, it classifies 100.00% of 36 images' in message
    assert prepare(data, model, tmp_path, input={"channels": "bgr"}).test_accuracy == 1


def test_a_model_that_beats_chance_is_accepted_with_a_warning_if_another_reading_is_much_better(
    data, tmp_path, keras, caplog
):
    """In the range [0, 1], it tells red from green by tiny differences, and never answers yellow."""
    victim = prepare(data, tint_model(before=layer(keras, "Rescaling")), tmp_path)
    assert victim.test_accuracy == pytest.approx(2 / 3)
    (message,) = caplog.messages
    assert "its accuracy on the users' images is 66.67% of 36 images" in message
    assert "with victim.input = { scale = 255.0 }, it classifies 100.00%" in message
    assert len(victim.facts["advice"]) == 1


def test_constant_outputs_are_refused_unless_any_accuracy_is_accepted(data, tmp_path, caplog):
    model = tint_model(bias=(0, 0, 0), weights=np.zeros((3, 3)))
    message = refusal(data, model, tmp_path)
    assert "its outputs are the same for all images" in message
    assert "33.33% of 36 images (95% interval 18.6% to 51.0%), is not better than chance, 33.33%" in message
    victim = prepare(data, model, tmp_path, accept_any_accuracy=True)
    assert victim.facts["accept_any_accuracy"] is True
    assert victim.facts["constant_outputs"] is True
    assert "its outputs are the same for all images" in caplog.messages[-1]


def test_a_refusal_is_repeated_from_the_cache(data, tmp_path, monkeypatch):
    model = tint_model(order=(1, 2, 0))
    first = refusal(data, model, tmp_path)
    monkeypatch.setattr(KerasEngine, "from_file", None)
    with pytest.raises(VictimError) as caught:
        prepare_victim(data, VictimConfig(file=tmp_path / "model-0.keras"))
    assert str(caught.value) == first


def test_one_unit_with_its_classes_exchanged_is_refused_with_their_order(tmp_path):
    """The unit is the confidence in green, which is the first of the data's classes."""
    two = tints(classes=2)
    model = tint_model(weights=np.array([[-20.0], [20.0], [0.0]]), bias=(0,), activation="sigmoid")
    assert 'with victim.labels = ["red", "green"]' in refusal(two, model, tmp_path)
    victim = prepare(two, model, tmp_path, labels=("red", "green"), output="sigmoid")
    assert victim.test_accuracy == 1
    images = np.random.default_rng(0).uniform(0.4, 0.6, (2, *SHAPE)).astype(np.float32)
    confidence, gradients = victim.load(SHAPE, 2, 8).predict(images, np.array([0, 1], np.int32))
    odds = 20 * (images[..., 1].mean(axis=(1, 2)) - images[..., 0].mean(axis=(1, 2))).astype(float)
    green = 1 / (1 + np.exp(-odds))
    np.testing.assert_allclose(confidence, np.stack([green, 1 - green], axis=1), atol=1e-5)
    slope = green * (1 - green) * 20 / (SHAPE[0] * SHAPE[1])
    np.testing.assert_allclose(gradients[0, ..., 1], slope[0], rtol=1e-3)
    np.testing.assert_allclose(gradients[1, ..., 1], -slope[1], rtol=1e-3)


def test_whole_numbers_are_pixels_from_0_to_255_and_have_no_gradient(data, tmp_path, keras):
    model = tint_model(before=layer(keras, "Rescaling"), kind="uint8", bias=(2, 0, -24))
    victim = prepare(data, model, tmp_path)
    assert victim.test_accuracy == 1
    assert (victim.facts["whole_numbers"], victim.gives_gradients) == ([0, 255], False)
    engine = victim.load(SHAPE, 3, 8)
    images = data.subset("users").images([0, 1, 2])
    expected = prepare(data, tint_model(bias=(2, 0, -24)), tmp_path).load(SHAPE, 3, 8)
    none = np.full(3, -1, np.int32)
    np.testing.assert_allclose(engine.predict(images, none)[0], expected.predict(images, none)[0], atol=1e-6)
    with pytest.raises(ValueError, match="this model has no gradients"):
        engine.predict(images, np.zeros(3, np.int32))


def test_a_model_with_an_operation_without_derivative_has_no_gradient(data, tmp_path, keras):
    rounded = tint_model(before=lambda images: keras.ops.round(images * 255) / 255)
    victim = prepare(data, rounded, tmp_path)
    assert victim.test_accuracy == 1
    assert not victim.gives_gradients
    assert not victim.load(SHAPE, 3, 8).gives_gradients


def test_a_wrong_output_is_refused_in_the_range_that_the_study_gives(data, tmp_path):
    message = refusal(data, tint_model(scale=255.0, activation=None), tmp_path, input={"scale": 255})
    assert "victim.output = 'logits'" in message


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("green", "red", "yelow"), "did you mean 'yellow' instead of 'yelow'"),
        (("green", "red"), "'yellow' of tints missing"),
        (("green", "red", "yellow", "blue"), "'blue': not a class of tints"),
    ],
)
def test_labels_that_are_not_the_classes_are_refused_by_name(data, labels, message):
    with pytest.raises(VictimError, match=message) as caught:
        study_reading(VictimConfig(file="m.keras", labels=labels), data)
    assert "accepted: 'green', 'red', 'yellow'" in str(caught.value)


def test_an_accented_name_is_the_same_in_both_of_its_unicode_forms(data):
    """Some file systems store é as e and a combining accent; a study from an editor has one character."""
    stored = ("caf\u0065\u0301", "na\u0069\u0308ve", "zoo")
    typed = ("zoo", "na\u00efve", "caf\u00e9")
    named = replace(data, class_names=stored)
    assert study_reading(VictimConfig(file="m.keras", labels=typed), named).order == (2, 1, 0)
    two = replace(data, class_names=("caf\u0065\u0301", "caf\u00e9", "zoo"))  # they are different folders
    assert study_reading(VictimConfig(file="m.keras", labels=two.class_names[::-1]), two).order == (2, 1, 0)


def test_an_input_that_does_not_fit_grey_images_is_refused(grey, data):
    for pixels, message in (({"channels": "bgr"}, "are grey"), ({"scale": [1, 2, 3]}, "3 numbers.*1 channel")):
        config = VictimConfig(file="m.keras", input=pixels)
        with pytest.raises(VictimError, match=rf"victim\.input\.(channels|scale).*{message}"):
            study_reading(config, grey)
        assert study_reading(config, data) != Reading()


def test_classes_are_matched_by_name():
    assert tuple(CLASSES) == ("green", "red", "yellow")
    reading = study_reading(VictimConfig(file="m.keras", labels=("yellow", "green", "red")), tints())
    assert reading.order == (2, 0, 1)
