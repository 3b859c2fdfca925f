"""Readings: conversions of images, gradients and the order of outputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.victims.reading import Reading

CAFFE = Reading(scale=(255.0,), offset=(-103.9, -116.8, -123.7), reverse=True)
READINGS = [
    Reading(),
    Reading(scale=(255.0,)),
    Reading(scale=(2.0,), offset=(-1.0,)),
    Reading(reverse=True),
    CAFFE,
    Reading(scale=(4.0, 5.0, 6.0), offset=(-0.5, 0.25, 0.0)),
]


@pytest.fixture
def images():
    return np.random.default_rng(0).random((4, 5, 6, 3), np.float32)


def test_a_reading_without_keys_changes_nothing(images):
    assert Reading().inputs(images) is images
    assert Reading().gradients(images) is images
    outputs = images[0, 0]
    assert Reading().by_class(outputs) is outputs
    assert Reading().facts(["a", "b"]) == {}


def test_scale_and_offset_have_the_order_of_the_channels_that_the_model_receives(images):
    """As preprocessing for models trained with Caffe: 0 to 255, blue first, and a mean removed from each channel."""
    received = CAFFE.inputs(images)
    for channel, (source, mean) in enumerate([(2, 103.9), (1, 116.8), (0, 123.7)]):
        np.testing.assert_allclose(received[..., channel], images[..., source] * 255 - mean, atol=1e-4)


@pytest.mark.parametrize("reading", READINGS)
def test_gradients_follow_the_chain_rule(reading, images):
    """A model with the known derivative 2x and weights: f(x) = Σ w x²."""
    weights = np.random.default_rng(1).normal(size=images.shape[1:])

    def f(image):
        return float(np.sum(weights * reading.inputs(image[None])[0].astype(np.float64) ** 2))

    received = reading.inputs(images)
    found = reading.gradients((2 * weights * received).astype(np.float32))
    for place in [(0, 0, 0), (1, 2, 1), (4, 5, 2)]:
        step = 2.0**-6
        higher, lower = images[0].copy(), images[0].copy()
        higher[place] += step
        lower[place] -= step
        width = float(higher[place]) - float(lower[place])
        assert found[0][place] == pytest.approx((f(higher) - f(lower)) / width, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("whole", [(0, 255), (-128, 127)])
def test_whole_numbers_are_rounded_and_stay_in_the_range_of_their_type(whole):
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = pixels.astype(np.float32) / np.float32(255)
    reading = Reading(whole=whole)
    np.testing.assert_array_equal(reading.inputs(images), np.clip(pixels, *whole))
    assert reading.inputs(images).dtype == np.float32
    assert not reading.has_gradient
    np.testing.assert_array_equal(Reading(scale=(100.0,), whole=whole).inputs(np.full((1, 1, 1, 1), 0.256)), 26)


@given(st.permutations(range(5)), st.permutations(range(5)), st.integers(0, 9))
@settings(max_examples=30)
def test_orders_of_outputs_are_undone_exactly(first, second, seed):
    """An output that means class c is found under c, for confidences and for gradients alike."""
    reading = Reading(order=tuple(first))
    outputs = np.random.default_rng(seed).random((3, 5), np.float32)
    by_class = reading.by_class(outputs)
    for unit, label in enumerate(first):
        np.testing.assert_array_equal(by_class[:, label], outputs[:, unit])
        assert reading.outputs_of(np.array([label, -1], np.int32)).tolist() == [unit, -1]
    again = reading.reordered(second)
    for label in range(5):
        np.testing.assert_array_equal(again.by_class(outputs)[:, second[label]], by_class[:, label])


def test_facts_are_the_keys_of_a_study():
    assert CAFFE.facts(["a", "b"]) == {"input": {"scale": 255.0, "offset": [-103.9, -116.8, -123.7], "channels": "bgr"}}
    assert Reading(order=(1, 0)).facts(["cat", "dog"]) == {"labels": ["dog", "cat"]}
    assert Reading(scale=(255.0,), whole=(0, 255)).facts(["cat"]) == {}
