"""A fixed batch has one shape for all calls, and each row's output depends on that row alone, bit for bit."""

import numpy as np
import pytest

from mifsim.networks import FixedBatch, import_tensorflow, input_shape

ROW = (9, 7, 3)


@pytest.fixture(scope="module")
def network():
    keras = import_tensorflow().keras
    layers = keras.layers
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [layers.Input(ROW), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dropout(0.5)]
    )


@pytest.mark.parametrize(("shape", "expected"), [((12, 14), (12, 14, 1)), ((12, 14, 3), (12, 14, 3))])
def test_grey_images_get_a_channel_axis(shape, expected):
    assert input_shape(shape) == expected


def test_a_fixed_batch_pads_with_zeros_and_is_traced_once():
    traced = []

    def total(rows):
        import tensorflow as tf

        traced.append(rows.shape)
        return rows * 2, tf.repeat(tf.reduce_sum(rows)[None], 4)

    fixed = FixedBatch(total, 4, [((), np.float32)])
    doubled, sums = fixed(np.array([1, 2, 3, 4, 5, 6], np.float32))
    assert doubled.tolist() == [2, 4, 6, 8, 10, 12]
    assert sums.tolist() == [10] * 4 + [11] * 2  # 5 + 6 and two zeros
    fixed(np.ones(1, np.float32))
    assert traced == [(4,)]


def test_several_inputs_are_padded_and_split_alike():
    fixed = FixedBatch(lambda rows, labels: (rows[:, 0] * 10, labels + 1), 4, [((2,), np.float32), ((), np.int32)])
    rows, labels = np.arange(18, dtype=np.float32).reshape(9, 2), np.arange(9, dtype=np.int32)
    tens, next_labels = fixed(rows, labels)
    np.testing.assert_array_equal(tens, 10 * rows[:, 0])
    np.testing.assert_array_equal(next_labels, labels + 1)
    assert (tens.dtype, next_labels.dtype) == (np.float32, np.int32)


def test_a_network_runs_in_inference_mode(network):
    images = np.random.default_rng(0).random((5, *ROW), np.float32)
    (answers,) = FixedBatch.of_network(network, 4, ROW)(images)
    np.testing.assert_allclose(answers, network(images, training=False), atol=1e-6)  # dropout has no effect


@pytest.mark.parametrize("place", [0, 3, 17, 24])
def test_the_output_of_a_row_does_not_depend_on_the_other_rows(network, place):
    images = np.random.default_rng(place).random((25, *ROW), np.float32)
    fixed = FixedBatch.of_network(network, 16, ROW)
    (alone,) = fixed(images[place : place + 1])
    (among,) = fixed(images)
    np.testing.assert_array_equal(among[place], alone[0])


def test_outputs_are_unchanged_by_the_next_call(network):
    """The outputs must not be views of the shared buffers."""
    images = np.random.default_rng(2).random((3, *ROW), np.float32)
    fixed = FixedBatch.of_network(network, 8, ROW)
    (first,) = fixed(images)
    copy = first.copy()
    fixed(1 - images)
    np.testing.assert_array_equal(first, copy)


@pytest.mark.parametrize(
    ("bad", "expected"), [((), 8), ((8,), 12), ((8, 12), 4), ((8, 12, 4), 8)], ids=["8", "12", "4", "none"]
)
def test_a_batch_size_is_chosen_whose_rows_do_not_depend_on_each_other(bad, expected):
    def shifted(rows):
        import tensorflow as tf

        size = rows.shape[0]
        return (rows + tf.range(size, dtype=tf.float32)[:, None] * 1e-3 if size in bad else rows,)

    assert FixedBatch.with_independent_rows(shifted, 8, [((3,), np.float32)]).batch_size == expected
