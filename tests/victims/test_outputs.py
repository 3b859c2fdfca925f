"""Kinds of outputs: which ones are recognised, at which precision, and how they become confidences."""

import numpy as np
import pytest

from mifsim.victims.outputs import confidences, kind_of, sum_tolerance, wrong_output


def logits(classes=10, images=64, scale=3.0):
    return np.random.default_rng(classes).normal(0, scale, (images, classes)).astype(np.float32)


def softmax(values):
    raised = np.exp(values.astype(np.float64) - values.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)


def sigmoid(values):
    return (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32)


def bfloat16(values):
    """Cut float32 numbers to the 8 bits of bfloat16's significand, rounding half up."""
    return ((values.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)


LOWER_PRECISION = {
    "float32": lambda values: values,
    "float16": lambda values: values.astype(np.float16).astype(np.float32),
    "bfloat16": bfloat16,
    "2 decimals": lambda values: np.round(values, 2),
    "4 decimals": lambda values: np.round(values, 4),
    "8 bits": lambda values: np.rint(values * 256) / np.float32(256),
}


@pytest.mark.parametrize("precision", LOWER_PRECISION)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_softmax_is_recognised_at_each_precision_and_sigmoids_are_not_taken_for_one(precision, classes):
    lower, values = LOWER_PRECISION[precision], logits(classes)
    assert kind_of(lower(softmax(values))) == "softmax"
    assert kind_of(lower(sigmoid(values))) == "sigmoid"
    assert wrong_output(lower(softmax(values)), "softmax") is None
    assert "softmax already" in wrong_output(lower(softmax(values)), "logits")
    assert "set victim.output = 'softmax'" in wrong_output(lower(softmax(values)), "logits")


def test_the_tolerance_of_float32_stays_small():
    assert sum_tolerance(softmax(logits())) == 1e-3
    assert sum_tolerance(bfloat16(softmax(logits()))) > 2**-8


def test_logits_become_a_softmax():
    values = logits()
    np.testing.assert_allclose(confidences(values, "logits"), softmax(values), rtol=1e-5)
    large = np.array([[1e4, 0.0], [-1e4, 0.0]], np.float32)
    np.testing.assert_array_equal(confidences(large, "logits"), [[1, 0], [0, 1]])


def test_one_unit_stands_for_two_classes():
    values = logits(1)
    expected = np.concatenate([1 - sigmoid(values), sigmoid(values)], axis=1)
    np.testing.assert_allclose(confidences(values, "logits"), expected, atol=1e-6)
    for output in ("sigmoid", "softmax"):
        np.testing.assert_allclose(confidences(sigmoid(values), output), expected, atol=1e-6)
        assert wrong_output(sigmoid(values), output) is None
    assert "victim.output = 'logits'" in wrong_output(values, "sigmoid")
    assert "victim.output = 'logits'" in wrong_output(values, "softmax")
    assert "victim.output = 'sigmoid'" in wrong_output(sigmoid(values), "logits")
    assert wrong_output(values, "logits") is None


def test_independent_sigmoids_are_used_as_they_are_if_the_study_says_so():
    values = sigmoid(logits(3))
    assert wrong_output(values, "sigmoid") is None
    assert confidences(values, "sigmoid") is values


def test_sigmoids_are_named_and_logits_are_not_advised():
    """Trained sigmoids add up to 1 on most images of the data, but not on all images."""
    values = sigmoid(logits(3))
    for output in ("softmax", "logits"):
        message = wrong_output(values, output)
        assert "sigmoid" in message
        assert "victim.output = 'sigmoid'" in message
        assert "'logits'" not in message


def test_logits_that_happen_to_lie_between_0_and_1_are_accepted_as_logits():
    few = np.random.default_rng(0).uniform(0.3, 0.7, (32, 3)).astype(np.float32)
    assert wrong_output(few, "logits") is None
    assert wrong_output(sigmoid(logits(3)), "logits", "linear") is None
    assert "sigmoid" in wrong_output(few, "logits", "sigmoid")


def test_logarithms_of_confidences_are_logits():
    values = np.log(softmax(logits()))
    assert wrong_output(values, "logits") is None
    np.testing.assert_allclose(confidences(values, "logits"), np.exp(values), rtol=1e-5)
    assert "set victim.output = 'logits'" in wrong_output(values, "softmax")


@pytest.mark.parametrize("output", ["softmax", "logits", "sigmoid"])
@pytest.mark.parametrize(("factor", "rounded"), [(100, False), (100, True), (255, True), (2, False)])
def test_percentages_and_confidences_of_8_bits_are_not_taken_for_logits(factor, rounded, output):
    """A softmax of them would give almost 1 to the first class, whatever the model's confidence."""
    values = softmax(logits()) * np.float32(factor)
    message = wrong_output(np.rint(values) if rounded else values, output)
    assert f"add up to about {factor}" in message or rounded
    assert "divide them" in message
    assert "victim.output" not in message


def test_logits_that_are_not_negative_are_logits():
    """The logits of a model that ends with ReLU have sums that differ from image to image."""
    assert wrong_output(np.maximum(logits(), 0), "logits") is None
    assert wrong_output(logits() ** 2, "logits") is None
