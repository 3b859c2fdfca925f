"""The engine returns correct confidences and gradients, bit for bit the same in any batch."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mifsim.errors import VictimError
from mifsim.networks import input_shape
from mifsim.victims.architectures import builder_of
from mifsim.victims.engine import BatchedModel, engine_from_bytes

CASES = [("lenet5", (28, 28), 10), ("cnn", (64, 64, 3), 4)]
BATCH, GRADIENT_BATCH = 24, 16


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[0])
def engine(request, keras):
    name, shape, classes = request.param
    keras.utils.set_random_seed(1)
    model = builder_of(name)(input_shape(shape), classes)
    return BatchedModel(model, shape, classes, BATCH, GRADIENT_BATCH)


def none(count):
    return np.full(count, -1, np.int32)


def softmax(logits):
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def test_a_linear_softmax_model_against_its_closed_form(keras):
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
    engine = BatchedModel(model, shape, classes, batch_size=16, gradient_batch_size=8)
    images = rng.random((count, *shape), np.float32)
    gradient_of = rng.integers(-1, classes, count).astype(np.int32)
    confidence, gradients = engine.predict(images, gradient_of)

    expected = softmax(images.reshape(count, -1).astype(float) @ weights + bias)
    np.testing.assert_allclose(confidence, expected, atol=1e-5)
    asking = np.flatnonzero(gradient_of >= 0)
    assert len(gradients) == len(asking) > 2 * 8  # more than two full batches
    for gradient, row in zip(gradients, asking, strict=True):
        label = gradient_of[row]
        by_hand = expected[row, label] * (weights[:, label] - weights @ expected[row])
        np.testing.assert_allclose(gradient, by_hand.reshape(shape), atol=1e-5)


def test_gradients_of_the_victims_against_finite_differences(engine):
    """Along the gradient itself the confidence rises by its length; across it, it stays."""
    rng = np.random.default_rng(2)
    image = rng.random((1, *engine.image_shape), np.float32)
    label, step = 1, 0.01
    _, (gradient,) = engine.predict(image, np.array([label], np.int32))
    length = float(np.linalg.norm(gradient))
    across = rng.normal(size=engine.image_shape)
    across -= gradient * np.sum(across * gradient) / length**2
    for direction, slope in ((gradient / length, length), (across / np.linalg.norm(across), 0)):
        moves = (image + sign * step * direction for sign in (1, -1))
        ahead, behind = (engine.predict(move.astype(np.float32), none(1))[0][0, label] for move in moves)
        assert (ahead - behind) / (2 * step) == pytest.approx(slope, abs=0.05 * length)


def test_a_rows_bits_do_not_depend_on_its_company(engine):
    rng = np.random.default_rng(3)
    probes = rng.random((5, *engine.image_shape), np.float32)
    probes[0] = 0  # the black image that attacks begin with
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
        for place, label, (its_confidence, its_gradient) in zip(places, labels, alone, strict=True):
            np.testing.assert_array_equal(confidence[place], its_confidence[0])
            if label >= 0:
                np.testing.assert_array_equal(gradients[order[place]], its_gradient[0])


def test_the_batch_size_leaves_the_bits_alone(keras):
    name, shape, classes = CASES[0]
    keras.utils.set_random_seed(1)
    model = builder_of(name)(input_shape(shape), classes)
    images = np.random.default_rng(4).random((70, *shape), np.float32)
    gradient_of = (np.arange(70) % (classes + 1) - 1).astype(np.int32)
    results = [BatchedModel(model, shape, classes, size, size).predict(images, gradient_of) for size in (16, 50, 128)]
    for other in results[1:]:
        for selected, reference in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(selected, reference)


ELSEWHERE = """
import sys
import numpy as np
from mifsim.victims.engine import engine_from_bytes
shape = (16, 16, 3)
engine = engine_from_bytes(open(sys.argv[1], "rb").read(), shape, 3, False, 64)
with np.load(sys.argv[2]) as asked:
    confidence, gradients = engine.predict(asked["images"], asked["gradient_of"])
np.savez(sys.argv[3], confidence=confidence, gradients=gradients)
"""


def test_a_process_with_one_thread_gives_the_same_bits_quietly(keras, tmp_path):
    """So a Ray actor with one CPU answers as the in-process backend does, which takes all that there are."""
    keras.utils.set_random_seed(1)
    shape = (16, 16, 3)
    model, asked, answered = (tmp_path / name for name in ("cnn.keras", "asked.npz", "answered.npz"))
    builder_of("cnn")(shape, 3).save(model)
    images = np.random.default_rng(0).random((100, *shape), np.float32)
    gradient_of = (np.arange(100) % 4 - 1).astype(np.int32)
    np.savez(asked, images=images, gradient_of=gradient_of)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, model, asked, answered],
        env=os.environ | {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")  # TensorFlow keeps its start-up messages to itself
    engine = engine_from_bytes(model.read_bytes(), shape, 3, False, 48)
    confidence, gradients = engine.predict(images, gradient_of)
    with np.load(answered) as reference:
        np.testing.assert_array_equal(confidence, reference["confidence"])
        np.testing.assert_array_equal(gradients, reference["gradients"])


def test_no_rows_and_only_some_that_want_gradients(engine):
    confidence, gradients = engine.predict(np.empty((0, *engine.image_shape), np.float32), none(0))
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
    engine = BatchedModel(builder_of("lenet5")((28, 28, 1), 10), (28, 28), 10, 4, 4)
    with pytest.raises(ValueError, match="expected"):
        engine.predict(np.zeros(images, np.float32), np.zeros(gradient_of, np.int32))
    for label in (10, -2):
        with pytest.raises(ValueError, match="gradient_of must be -1 to 9"):
            engine.predict(np.zeros((1, 28, 28), np.float32), np.array([label], np.int32))


def test_answers_are_kept_when_the_engine_goes_on(engine):
    """The engine's own buffers must not be what it hands out."""
    images = np.random.default_rng(5).random((2, *engine.image_shape), np.float32)
    wanted = np.array([-1, 0], np.int32)
    first = engine.predict(images, wanted)
    kept = [array.copy() for array in first]
    engine.predict(1 - images, wanted)
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def mixing_model(keras, strength):
    """Adds something of the batch's mean to every row."""
    inputs = keras.layers.Input((6, 6, 1))
    mean = keras.ops.mean(inputs, axis=0, keepdims=True)
    mixed = keras.ops.add(inputs, keras.ops.multiply(mean, strength))
    hidden = keras.layers.Flatten()(mixed)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))


def test_a_model_that_mixes_rows_is_refused(keras):
    with pytest.raises(VictimError, match="depends on the other images of its batch"):
        BatchedModel(mixing_model(keras, 1.0), (6, 6), 3, 8, 8)


def test_a_model_that_mixes_last_bits_is_warned_of(keras):
    with pytest.warns(RuntimeWarning, match="in its last bits"):
        BatchedModel(mixing_model(keras, 1e-6), (6, 6), 3, 8, 8)


def test_an_engine_from_a_files_content(keras, tmp_path):
    model = builder_of("lenet5")((28, 28, 1), 10)
    model.save(tmp_path / "m.keras")
    engine = engine_from_bytes((tmp_path / "m.keras").read_bytes(), (28, 28), 10, False, 8)
    assert engine.batch_size == 8
    images = np.random.default_rng(6).random((3, 28, 28), np.float32)
    expected = model(images[..., None], training=False).numpy()
    np.testing.assert_allclose(engine.predict(images, none(3))[0], expected, atol=1e-6)
