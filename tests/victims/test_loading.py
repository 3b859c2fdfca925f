"""Model files of users: which ones are accepted as victims, and how the others are refused."""

import json
import os
import zipfile

import numpy as np
import pytest

from mifsim.errors import VictimError
from mifsim.victims.loading import load_victim, open_victim
from mifsim.victims.reading import Reading

GREY, CLASSES = (8, 9), 3


def dense(keras, shape, classes=CLASSES, activation="softmax"):
    return keras.Sequential(
        [
            keras.layers.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation=activation, name="last"),
        ]
    )


def save(model, tmp_path):
    """Save a model, and return the path of its file."""
    path = tmp_path / "own.keras"
    model.save(path)
    return path


@pytest.fixture
def images():
    return np.random.default_rng(0).random((5, *GREY, 1), np.float32)


def test_a_matching_model_is_used_unchanged(keras, tmp_path, images):
    model = dense(keras, (*GREY, 1))
    loaded = load_victim(save(model, tmp_path), GREY, CLASSES)
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)


def test_a_grey_model_without_a_channel_axis_gets_one(keras, tmp_path, images):
    model = dense(keras, GREY)
    loaded = load_victim(save(model, tmp_path), GREY, CLASSES)
    np.testing.assert_allclose(loaded(images), model(images[..., 0]), atol=1e-6)


def test_logits_get_a_softmax(keras, tmp_path, images):
    model = dense(keras, (*GREY, 1), activation=None)
    loaded = load_victim(save(model, tmp_path), GREY, CLASSES, "logits")
    raised = np.exp(model(images).numpy().astype(float))
    np.testing.assert_allclose(loaded(images), raised / raised.sum(axis=1, keepdims=True), atol=1e-6)


def test_a_model_for_images_of_any_size_is_accepted(keras, tmp_path):
    inputs = keras.layers.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(pooled))
    assert load_victim(save(model, tmp_path), (8, 9, 3), CLASSES) is not None


@pytest.mark.parametrize(
    ("shape", "classes", "activation", "output", "message"),
    [
        ((28, 28, 1), 3, "softmax", "softmax", r"takes images of shape \(28, 28, 1\); the data has \(8, 9\)"),
        ((8, 9, 3), 3, "softmax", "softmax", r"must take \(8, 9, 1\) or \(8, 9\)"),
        ((72,), 3, "softmax", "softmax", r"takes images of shape \(72\)"),
        ((8, 9, 1), 10, "softmax", "softmax", r"returns shape \(10\) for an image; the data has 3 classes"),
        ((8, 9, 1), 3, None, "softmax", r"does not add up to 1.*set victim\.output = 'logits'"),
        (
            (8, 9, 1),
            3,
            "sigmoid",
            "softmax",
            r"do not add up to 1.*a sigmoid for each class.*victim\.output = 'sigmoid'",
        ),
        ((8, 9, 1), 3, "softmax", "logits", r"softmax already.*not logits; set victim\.output = 'softmax'"),
    ],
)
def test_a_mismatch_is_refused_with_the_actual_and_the_expected_value(
    keras, tmp_path, shape, classes, activation, output, message
):
    path = save(dense(keras, shape, classes, activation), tmp_path)
    with pytest.raises(VictimError, match=message) as caught:
        load_victim(path, GREY, CLASSES, output)
    assert str(path) in str(caught.value)


def test_a_model_that_gives_nan_is_refused(keras, tmp_path):
    model = dense(keras, (*GREY, 1))
    model.get_layer("last").bias.assign([np.nan, 0, 0])
    with pytest.raises(VictimError, match="NaN or infinite"):
        load_victim(save(model, tmp_path), GREY, CLASSES)


def test_several_inputs_or_outputs_are_refused_by_their_names(keras, tmp_path):
    inputs = keras.layers.Input((*GREY, 1), name="image")
    flat = keras.layers.Flatten()(inputs)
    ends = [keras.layers.Dense(CLASSES, activation="softmax", name=name)(flat) for name in ("animal", "colour")]
    refused = {
        "has 2 outputs, 'animal', 'colour' .accepted: one output": keras.Model(inputs, ends),
        "has a dict of 2 outputs, 'probs', 'more' .accepted": keras.Model(inputs, {"probs": ends[0], "more": ends[1]}),
    }
    other = keras.layers.Input((*GREY, 1), name="mask")
    mixed = keras.layers.Flatten()(keras.layers.Add()([inputs, other]))
    refused["has 2 inputs, 'image', 'mask' .accepted: one input"] = keras.Model(
        [inputs, other], keras.layers.Dense(CLASSES, activation="softmax")(mixed)
    )
    for message, model in refused.items():
        with pytest.raises(VictimError, match=message) as caught:
            load_victim(save(model, tmp_path), GREY, CLASSES)
        assert "\n" not in str(caught.value)


def test_a_dict_or_list_with_a_single_output_is_used(keras, tmp_path, images):
    plain = dense(keras, (*GREY, 1))
    for outputs in ({"probs": plain.outputs[0]}, [plain.outputs[0]]):
        model = keras.Model(plain.inputs, outputs)
        loaded = load_victim(save(model, tmp_path), GREY, CLASSES)
        np.testing.assert_allclose(loaded(images), plain(images), atol=1e-6)


def test_one_unit_becomes_the_confidences_of_two_classes(keras, tmp_path, images):
    model = dense(keras, (*GREY, 1), 1, None)
    odds = model(images).numpy().astype(float)[:, 0]
    expected = np.stack([1 / (1 + np.exp(odds)), 1 / (1 + np.exp(-odds))], axis=1)
    loaded = load_victim(save(model, tmp_path), GREY, 2, "logits")
    np.testing.assert_allclose(loaded(images), expected, atol=1e-6)
    certain = dense(keras, (*GREY, 1), 1, "sigmoid")
    certain.set_weights(model.get_weights())
    for output in ("sigmoid", "softmax"):
        loaded = load_victim(save(certain, tmp_path), GREY, 2, output)
        np.testing.assert_allclose(loaded(images), expected, atol=1e-6)
    with pytest.raises(VictimError, match=r"returns shape \(1\) for an image; the data has 3 classes"):
        load_victim(path=tmp_path / "own.keras", shape=GREY, classes=3)


@pytest.mark.parametrize(("kind", "whole"), [("uint8", (0, 255)), ("int32", (-(2**24), 2**24)), ("float16", None)])
def test_a_model_of_another_type_of_input_gets_this_type(keras, tmp_path, kind, whole):
    inputs = keras.layers.Input((*GREY, 1), dtype=kind)
    scaled = keras.layers.Rescaling(1 / 255 if whole else 1)(inputs)
    outputs = keras.layers.Dense(CLASSES, activation="softmax")(keras.layers.Flatten()(scaled))
    model = keras.Model(inputs, outputs)
    loaded = open_victim(save(model, tmp_path), GREY, CLASSES)
    assert loaded.reading.whole == whole
    pixels = np.random.default_rng(0).integers(0, 256, (5, *GREY, 1))
    images = (pixels / 255).astype(np.float32)
    expected = model(pixels.astype(kind) if whole else images.astype(kind))
    np.testing.assert_allclose(loaded.model(loaded.reading.inputs(images)), expected, atol=1e-3)


def test_inputs_that_cannot_hold_pixels_are_refused_by_their_type(keras, tmp_path):
    for kind, message in (("bool", "its input is bool"), ("int8", "its input is int8, up to 127.*victim.input")):
        inputs = keras.layers.Input((*GREY, 1), dtype=kind)
        flat = keras.layers.Flatten()(keras.layers.Rescaling(1.0)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(flat))
        with pytest.raises(VictimError, match=message):
            load_victim(save(model, tmp_path), GREY, CLASSES)
    shifted = Reading(scale=(255.0,), offset=(-128.0,))
    assert open_victim(tmp_path / "own.keras", GREY, CLASSES, reading=shifted).reading.whole == (-128, 127)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_a_softmax_in_mixed_precision_is_a_softmax(keras, tmp_path, precision):
    model = keras.Sequential(
        [
            keras.layers.Input((*GREY, 1)),
            keras.layers.Flatten(dtype=precision),
            keras.layers.Dense(10, activation="softmax", dtype=precision),
        ]
    )
    path = save(model, tmp_path)
    assert load_victim(path, GREY, 10) is not None
    with pytest.raises(VictimError, match=r"softmax already.*last activation is softmax"):
        load_victim(path, GREY, 10, "logits")


def test_a_last_operation_that_is_no_layer_is_named_too(keras, tmp_path):
    inputs = keras.layers.Input((*GREY, 1))
    values = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(inputs))
    path = save(keras.Model(inputs, keras.ops.sigmoid(values)), tmp_path)
    with pytest.raises(VictimError, match=r"its last activation is sigmoid.*victim\.output = 'sigmoid'"):
        load_victim(path, GREY, CLASSES, "logits")
    assert load_victim(path, GREY, CLASSES, "sigmoid") is not None


def test_custom_layers_and_functions_are_refused_by_their_names(keras, tmp_path):
    @keras.saving.register_keras_serializable("shop")
    class Contrast(keras.layers.Layer):
        def call(self, images):
            return images * 2.0

    @keras.saving.register_keras_serializable("shop")
    def steep(values):
        return keras.ops.softmax(10 * values)

    layers = [keras.layers.Input((*GREY, 1)), Contrast(), keras.layers.Flatten(), keras.layers.Dense(CLASSES, steep)]
    inner = keras.Sequential(layers)
    path = save(keras.Sequential([keras.layers.Input((*GREY, 1)), inner]), tmp_path)
    for name in ("shop>Contrast", "shop>steep"):
        keras.saving.get_custom_objects().pop(name)
    with pytest.raises(VictimError, match="contains shop>Contrast, shop>steep, of which only the name") as caught:
        load_victim(path, GREY, CLASSES)
    assert "accepted: layers and functions that keras itself provides" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_python_code_in_a_file_is_not_run(keras, tmp_path):
    marker = tmp_path / "it ran"
    code = keras.layers.Lambda(lambda x, path=str(marker): (open(path, "w").close(), x)[1])
    model = keras.Sequential([keras.layers.Input((*GREY, 1)), code, keras.layers.Flatten()])
    path = save(model, tmp_path)
    marker.unlink(missing_ok=True)
    with pytest.raises(VictimError, match=r"contains Python code .such as a Lambda layer., which is not run"):
        load_victim(path, GREY, CLASSES)
    assert not marker.exists()


def test_a_model_cannot_name_functions_outside_of_keras(keras, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(os, "system", called.append)
    model = keras.Sequential([keras.layers.Input((*GREY, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    path = save(model, tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    flatten = config["config"]["layers"][1]
    assert flatten["class_name"] == "Flatten"
    config["config"]["layers"][1] = {
        "module": "os", "class_name": "function", "config": "system", "registered_name": "system",
        "build_config": flatten.get("build_config"),
    }  # fmt: skip
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(VictimError, match=r"own\.keras: "):
        load_victim(path, GREY, CLASSES)
    assert called == []


def missing(path):
    """Write no file."""


def text(path):
    path.write_text("this is not a model")


def other_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


@pytest.mark.parametrize(
    ("make", "message"),
    [(missing, "no such file"), (text, "not a .keras archive"), (other_archive, "keras cannot load it")],
)
def test_files_that_are_not_models_are_refused(tmp_path, make, message):
    path = tmp_path / "own.keras"
    make(path)
    with pytest.raises(VictimError, match=message) as caught:
        load_victim(path, GREY, CLASSES)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_model_is_refused(keras, tmp_path):
    path = save(dense(keras, (*GREY, 1)), tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(VictimError, match="truncated"):
        load_victim(path, GREY, CLASSES)


def test_files_with_another_suffix_are_refused(tmp_path):
    (tmp_path / "model.h5").write_text("")
    with pytest.raises(VictimError, match=r"model\.h5: not a \.keras file \(expected one that"):
        load_victim(tmp_path / "model.h5", GREY, CLASSES)
