"""Training of the architectures: accuracy, determinism, numbers of epochs, and shifts of images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mifsim.data.base import ArrayPool
from mifsim.victims import training
from mifsim.victims.architectures import builder_of
from mifsim.victims.model_check import network_accuracy
from mifsim.victims.training import Recipe, mirrored, shifted, train


@pytest.mark.parametrize(
    ("name", "kind"),
    [("lenet5", "grey"), ("cnn", "colour"), ("cnn-bn", "colour"), ("evaluator", "grey")],
)
def test_every_architecture_learns(request, name, kind):
    data = request.getfixturevalue(kind)
    trained = train(name, [data.subset("private")], data.shape, 3, epochs=60)
    assert (trained.images, trained.epochs) == (90, 60)
    assert network_accuracy(trained.model, data.subset("users"), data.shape, 3).value > 0.85


def test_the_seed_determines_the_weights_bit_for_bit(colour):
    """The training uses dropout, shifts and two pools."""
    pools = [colour.subset("private"), colour.subset("evaluator")]

    def weights(seed):
        return train("cnn", pools, colour.shape, 3, seed=seed, epochs=2).model.get_weights()

    first, again, other = weights(7), weights(7), weights(8)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], other[0])


def test_accuracy_is_the_share_of_correct_answers(grey):
    """A model that always answers class 1 is correct on a third of a subset of three balanced classes."""
    import tensorflow as tf

    def always_one(images, training):
        return tf.one_hot(tf.ones(images.shape[0], tf.int32), 3)

    labels = np.array([1] * 300 + [0] * 700)
    pool = ArrayPool(np.zeros((1000, 12, 14), np.uint8), labels)
    found = network_accuracy(always_one, pool, (12, 14), 3)
    assert (found.right, found.images, found.chance) == (300, 1000, pytest.approx(0.3))
    assert network_accuracy(always_one, grey.subset("users"), grey.shape, 3).value == pytest.approx(1 / 3)


@pytest.mark.parametrize(("least", "told"), [(0, 1), (3600, 0)])
def test_a_training_of_more_than_a_minute_says_how_long_it_takes(grey, caplog, monkeypatch, least, told):
    monkeypatch.setattr(training, "LEAST_SECONDS", least)
    caplog.set_level("INFO")
    train("lenet5", [grey.subset("private")], grey.shape, 3, epochs=20)
    lines = [line for line in caplog.messages if line.startswith("lenet5: the training takes about ")]
    assert len(lines) == told


def test_training_works_on_fewer_images_than_a_batch(grey):
    few = ArrayPool(np.zeros((5, 12, 14), np.uint8), np.arange(5) % 3)
    assert train("lenet5", [few], (12, 14), 3, epochs=1).images == 5


def test_the_number_of_epochs_decreases_with_the_number_of_images_to_a_minimum():
    recipe = Recipe(images_seen=1000, least_epochs=3, batch_size=32, learning_rate=1e-3)
    assert [recipe.epochs(images) for images in (100, 300, 5000)] == [10, 4, 3]


@given(st.integers(0, 3), st.integers(0, 1000), st.sampled_from([(7, 6), (7, 6, 3)]))
def test_shifting_moves_whole_images_and_repeats_edges(most, seed, shape):
    images = np.random.default_rng(0).random((4, *shape)).astype(np.float32)
    moved = shifted(images, most, np.random.default_rng(seed))
    pad = [(most, most), (most, most)] + [(0, 0)] * (len(shape) - 2)
    for before, after in zip(images, moved, strict=True):
        padded = np.pad(before, pad, mode="edge")
        candidates = [
            padded[row : row + 7, column : column + 6] for row in range(2 * most + 1) for column in range(2 * most + 1)
        ]
        assert any(np.array_equal(after, candidate) for candidate in candidates)


def test_about_half_of_the_images_is_mirrored_and_the_others_are_unchanged():
    images = np.random.default_rng(0).random((400, 5, 4, 3)).astype(np.float32)
    turned = mirrored(images, True, np.random.default_rng(1))
    same = (turned == images).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(turned[~same], images[~same][:, :, ::-1])
    assert 150 < same.sum() < 250  # 400 · 1/2, with a standard deviation of 10
    assert mirrored(images, False, np.random.default_rng(1)) is images


def test_softmax_regression_keeps_what_the_training_images_do_not_contain_out_of_its_weights():
    """Every step adds multiples of training images to weights that start at zero; pixel (0, 0) is black in all."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 4, 4), np.uint8)
    pixels[:, 0, 0] = 0
    model = train("softmax", [ArrayPool(pixels, np.arange(12) % 3)], (4, 4), 3, epochs=3).model
    weights = model.get_weights()[0]
    span = pixels.reshape(12, 16).astype(np.float64)
    residual = weights - span.T @ np.linalg.lstsq(span.T, weights, rcond=None)[0]
    assert np.abs(weights).max() > 1e-4
    assert np.abs(residual).max() < 1e-6 * max(1, np.abs(weights).max())


def test_the_multilayer_perceptron_has_3000_sigmoid_units():
    hidden, output = builder_of("mlp")((4, 5, 1), 7).layers[1:]
    assert (hidden.units, hidden.activation.__name__, output.units) == (3000, "sigmoid", 7)
