"""Training of the architectures: accuracy, determinism, numbers of epochs, and shifts of images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mifsim.data.base import ArrayPool
from mifsim.victims.model_check import network_accuracy
from mifsim.victims.training import Recipe, shifted, train


@pytest.mark.parametrize(("name", "kind"), [("lenet5", "grey"), ("cnn", "colour"), ("evaluator", "grey")])
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
