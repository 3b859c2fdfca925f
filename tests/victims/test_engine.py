"""The engine returns correct confidences and gradients, bit for bit the same in any batch."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mifsim.errors import VictimError
from mifsim.networks import input_shape
from mifsim.victims import ModelSource, VictimConfig
from mifsim.victims.architectures import builder_of
from mifsim.victims.engines.keras import KerasEngine

CASES = [("lenet5", (28, 28), 10), ("cnn", (64, 64, 3), 4)]
BATCH, GRADIENT_BATCH = 24, 16


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[0])
def engine(request, keras):
    name, shape, classes = request.param
    keras.utils.set_random_seed(1)
    model = builder_of(name)(input_shape(shape), classes)
    return KerasEngine(model, shape, classes, BATCH, GRADIENT_BATCH)


def no_gradients(count):
    """Return the argument `gradient_of` for rows that request no gradient."""
    return np.full(count, -1, np.int32)


def softmax(logits):
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def test_results_of_a_linear_softmax_model_match_their_closed_form(keras):
    """d p_k / d x = p_k (w_k - sum_j p_j w_j), in float64."""
    shape, classes, count = (4, 5, 3), 6, 50
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=(60, classes)), rng.normal(size=classes)
    model = keras.Sequential(
        [
            keras.layers.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )
    model.layers[-1].set_weights([weights, bias])
    engine = KerasEngine(model, shape, classes, batch_size=16, gradient_batch_size=8)
    images = rng.random((count, *shape), np.float32)
    gradient_of = rng.integers(-1, classes, count).astype(np.int32)
    confidence, gradients = engine.predict(images, gradient_of)

    expected = softmax(images.reshape(count, -1).astype(float) @ weights + bias)
    np.testing.assert_allclose(confidence, expected, atol=1e-5)
    requested = np.flatnonzero(gradient_of >= 0)
    assert len(gradients) == len(requested) > 2 * 8  # more than two full batches
    for gradient, row in zip(gradients, requested, strict=True):
        label = gradient_of[row]
        exact = expected[row, label] * (weights[:, label] - weights @ expected[row])
        np.testing.assert_allclose(gradient, exact.reshape(shape), atol=1e-5)


def test_gradients_of_the_victims_match_finite_differences(engine):
    """Along the gradient, the confidence has a slope of the gradient's length; orthogonal to it, a slope of 0."""
    rng = np.random.default_rng(2)
    image = rng.random((1, *engine.image_shape), np.float32)
    label, step = 1, 0.01
    _, (gradient,) = engine.predict(image, np.array([label], np.int32))
    length = float(np.linalg.norm(gradient))
    orthogonal = rng.normal(size=engine.image_shape)
    orthogonal -= gradient * np.sum(orthogonal * gradient) / length**2
    for direction, slope in ((gradient / length, length), (orthogonal / np.linalg.norm(orthogonal), 0)):
        moves = (image + sign * step * direction for sign in (1, -1))
        ahead, behind = (engine.predict(move.astype(np.float32), no_gradients(1))[0][0, label] for move in moves)
        assert (ahead - behind) / (2 * step) == pytest.approx(slope, abs=0.05 * length)


def test_the_results_of_a_row_do_not_depend_on_the_other_rows(engine):
    rng = np.random.default_rng(3)
    probes = rng.random((5, *engine.image_shape), np.float32)
    probes[0] = 0  # the black image that attacks start from
    labels = np.array([-1, 0, 1, 2, -1], np.int32)
    alone = [engine.predict(probe[None], label[None]) for probe, label in zip(probes, labels, strict=True)]
    for _ in range(25):
        count = int(rng.integers(5, 3 * BATCH))
        images = rng.random((count, *engine.image_shape), np.float32) * np.float32(rng.choice([0, 0.1, 1]))
        gradient_of = rng.integers(-1, engine.classes, count).astype(np.int32)
        places = rng.choice(count, 5, replace=False)
        images[places], gradient_of[places] = probes, labels
        confidence, gradients = engine.predict(images, gradient_of)
        order = np.cumsum(gradient_of >= 0) - 1
        for place, label, (alone_confidence, alone_gradient) in zip(places, labels, alone, strict=True):
            np.testing.assert_array_equal(confidence[place], alone_confidence[0])
            if label >= 0:
                np.testing.assert_array_equal(gradients[order[place]], alone_gradient[0])


def test_results_do_not_depend_on_the_batch_size(keras):
    name, shape, classes = CASES[0]
    keras.utils.set_random_seed(1)
    model = builder_of(name)(input_shape(shape), classes)
    images = np.random.default_rng(4).random((70, *shape), np.float32)
    gradient_of = (np.arange(70) % (classes + 1) - 1).astype(np.int32)
    results = [KerasEngine(model, shape, classes, size, size).predict(images, gradient_of) for size in (16, 64, 128)]
    for other in results[1:]:
        for selected, reference in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(selected, reference)


ONE_THREAD_PROGRAM = """
import sys
import numpy as np
from mifsim.victims import ModelSource, VictimConfig
shape = (16, 16, 3)
engine = ModelSource(open(sys.argv[1], "rb").read(), VictimConfig()).engine(shape, 3, 64)
with np.load(sys.argv[2]) as asked:
    confidence, gradients = engine.predict(asked["images"], asked["gradient_of"])
np.savez(sys.argv[3], confidence=confidence, gradients=gradients)
"""


def test_a_process_with_one_thread_gives_the_same_results_without_messages(keras, tmp_path):
    """A Ray actor with one CPU gives the same answers as the in-process backend, which uses all CPUs."""
    keras.utils.set_random_seed(1)
    shape = (16, 16, 3)
    model, inputs_file, outputs_file = (tmp_path / name for name in ("cnn.keras", "asked.npz", "answered.npz"))
    builder_of("cnn")(shape, 3).save(model)
    images = np.random.default_rng(0).random((100, *shape), np.float32)
    gradient_of = (np.arange(100) % 4 - 1).astype(np.int32)
    np.savez(inputs_file, images=images, gradient_of=gradient_of)
    done = subprocess.run(
        [sys.executable, "-c", ONE_THREAD_PROGRAM, model, inputs_file, outputs_file],
        env=os.environ | {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")  # TensorFlow's start-up messages are suppressed
    engine = ModelSource(model.read_bytes(), VictimConfig()).engine(shape, 3, 48)
    confidence, gradients = engine.predict(images, gradient_of)
    with np.load(outputs_file) as reference:
        np.testing.assert_array_equal(confidence, reference["confidence"])
        np.testing.assert_array_equal(gradients, reference["gradients"])


def test_accepts_no_rows_and_gradient_requests_of_some_rows(engine):
    confidence, gradients = engine.predict(np.empty((0, *engine.image_shape), np.float32), no_gradients(0))
    assert confidence.shape == (0, engine.classes)
    assert gradients.shape == (0, *engine.image_shape)
    images = np.zeros((3, *engine.image_shape), np.float32)
    confidence, gradients = engine.predict(images, np.array([-1, 0, -1], np.int32))
    assert gradients.shape == (1, *engine.image_shape)
    np.testing.assert_allclose(confidence.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "gradient_of"),
    [((2, 28), (2,)), ((2, 28, 28, 1), (2,)), ((2, 28, 28), (3,)), ((2, 27, 28), (2,))],
)
def test_wrong_shapes_are_refused(keras, images, gradient_of):
    engine = KerasEngine(builder_of("lenet5")((28, 28, 1), 10), (28, 28), 10, 4, 4)
    with pytest.raises(ValueError, match="expected"):
        engine.predict(np.zeros(images, np.float32), np.zeros(gradient_of, np.int32))
    for label in (10, -2):
        with pytest.raises(ValueError, match="gradient_of must be -1 to 9"):
            engine.predict(np.zeros((1, 28, 28), np.float32), np.array([label], np.int32))


def test_results_are_unchanged_by_the_next_call(engine):
    """The results must not be views of the engine's buffers."""
    images = np.random.default_rng(5).random((2, *engine.image_shape), np.float32)
    wanted = np.array([-1, 0], np.int32)
    first = engine.predict(images, wanted)
    copies = [array.copy() for array in first]
    engine.predict(1 - images, wanted)
    for array, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def mixing_model(keras, strength):
    """Return a model that adds a fraction of the batch's mean to every row."""
    inputs = keras.layers.Input((6, 6, 1))
    mean = keras.ops.mean(inputs, axis=0, keepdims=True)
    mixed = keras.ops.add(inputs, keras.ops.multiply(mean, strength))
    hidden = keras.layers.Flatten()(mixed)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))


def test_a_model_that_mixes_rows_is_refused(keras):
    with pytest.raises(VictimError, match="depends on the other images of its batch"):
        KerasEngine(mixing_model(keras, 1.0), (6, 6), 3, 8, 8)


def test_a_model_that_mixes_rows_in_the_last_bits_gives_a_warning(keras):
    with pytest.warns(RuntimeWarning, match="in its last bits"):
        KerasEngine(mixing_model(keras, 1e-6), (6, 6), 3, 8, 8)


def test_an_engine_is_loaded_from_the_content_of_a_file(keras, tmp_path):
    model = builder_of("lenet5")((28, 28, 1), 10)
    model.save(tmp_path / "m.keras")
    engine = ModelSource((tmp_path / "m.keras").read_bytes(), VictimConfig()).engine((28, 28), 10, 8)
    assert engine.batch_size == 8
    images = np.random.default_rng(6).random((3, 28, 28), np.float32)
    expected = model(images[..., None], training=False).numpy()
    np.testing.assert_allclose(engine.predict(images, no_gradients(3))[0], expected, atol=1e-6)


def test_an_image_of_one_colour_for_which_the_model_returns_nan_is_an_error(keras):
    """A model that divides by the brightest pixel is sound for photographs, and not for a black image."""
    ops = keras.ops
    inputs = keras.layers.Input((6, 6, 1))
    shown = inputs / ops.max(inputs, axis=(1, 2, 3), keepdims=True)
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(shown))
    engine = KerasEngine(keras.Model(inputs, outputs), (6, 6), 3, 4, 4)
    images = np.random.default_rng(0).random((3, 6, 6), np.float32)
    assert np.isfinite(engine.predict(images, no_gradients(3))[0]).all()
    images[1] = 0
    for wanted in (-1, 2):
        with pytest.raises(VictimError, match="returns NaN or infinite confidences for an image"):
            engine.predict(images, np.full(3, wanted, np.int32))
