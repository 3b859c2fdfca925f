"""Accuracy against chance, comparisons of two readings, and orders of outputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score

from mifsim.victims.accuracy import Accuracy, chosen_images, clearly_better, mean_recall
from mifsim.victims.order import fitting_order


def answers_of(labels, share, classes, seed=0):
    """Return answers of which exactly this share is right; the others are spread over the other classes."""
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(labels))[: round((1 - share) * len(labels))]
    answers = labels.copy()
    answers[wrong] = (labels[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return answers


@given(st.integers(2, 6), st.integers(2, 80), st.integers(0, 999))
@settings(max_examples=50)
def test_chance_is_the_expected_agreement_of_cohen(classes, images, seed):
    rng = np.random.default_rng(seed)
    labels, answers = rng.integers(0, classes, (2, images))
    found = Accuracy.of(labels, answers, classes)
    if found.chance < 1:
        kappa = cohen_kappa_score(labels, answers, labels=range(classes))
        assert (found.value - found.chance) / (1 - found.chance) == pytest.approx(kappa, abs=1e-9)
    low, high = found.interval
    exact = stats.binomtest(found.right, images).proportion_ci(0.95, method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))


def test_a_constant_answer_does_not_beat_chance_however_unequal_the_classes():
    labels = np.repeat([0, 1, 2], [900, 60, 40])
    for answer in range(3):
        assert Accuracy.of(labels, np.full(1000, answer), 3).verdict == "chance"
    assert Accuracy.of(labels, np.full(1000, 0), 3).chance == pytest.approx(0.9)
    balanced = np.repeat([0, 1, 2], 12)
    assert Accuracy.of(balanced, np.full(36, 2), 3).chance == pytest.approx(1 / 3)


def test_a_model_with_the_same_recall_for_every_class_beats_chance_below_the_largest_class():
    """80% of either class, of images of which 95% show one class: an accuracy of 80% is better than chance."""
    labels = np.repeat([0, 1], [950, 50])
    answers = labels.copy()
    answers[:190], answers[950:960] = 1, 0
    found = Accuracy.of(labels, answers, 2)
    assert found.value == 0.8
    assert found.verdict == "better"


@pytest.mark.parametrize(
    ("images", "share", "classes", "verdict"),
    [
        (1000, 0.55, 2, "better"),  # 51.9% to 58.1%
        (100, 0.55, 2, "unclear"),  # 44.7% to 65.0%: too few images to tell, so the model is accepted
        (20, 0.55, 2, "unclear"),
        (1000, 0.51, 2, "chance"),  # 47.9% to 54.1%
        (1000, 0.10, 10, "chance"),
        (1000, 0.11, 10, "chance"),
        (1000, 0.15, 10, "better"),
        (36, 0.0, 3, "chance"),
        (36, 1.0, 3, "better"),
        (4, 1.0, 2, "unclear"),  # 39.8% to 100%
    ],
)
def test_the_verdict_follows_from_the_exact_interval(images, share, classes, verdict):
    labels = np.arange(images) % classes
    assert Accuracy.of(labels, answers_of(labels, share, classes), classes).verdict == verdict


def test_images_are_chosen_once_for_all_and_without_repetition():
    chosen = chosen_images(5000)
    assert len(np.unique(chosen)) == len(chosen) == 1000
    np.testing.assert_array_equal(chosen, chosen_images(5000))
    np.testing.assert_array_equal(chosen_images(12), np.arange(12))


def test_mean_recall_is_the_balanced_accuracy():
    labels, answers = np.random.default_rng(0).integers(1, 4, (2, 50))
    assert mean_recall(labels, labels == answers) == pytest.approx(balanced_accuracy_score(labels, answers))


def test_a_reading_that_always_answers_the_largest_class_is_not_better_than_a_weak_model():
    labels = np.repeat([0, 1], [180, 20])
    weak = np.random.default_rng(0).random(200) < 0.7
    assert not clearly_better(labels, weak, labels == 0)


def test_a_better_reading_needs_eight_images_that_only_it_classifies():
    labels = np.arange(12) % 3
    before = labels == 0
    assert clearly_better(labels, before, np.ones(12, bool))
    assert not clearly_better(labels[:9], before[:9], np.ones(9, bool))


def test_a_better_reading_does_not_give_up_a_class():
    labels = np.repeat([0, 1, 2], 30)
    assert not clearly_better(labels, labels == 0, labels != 0)


@pytest.mark.parametrize(
    ("classes", "images", "share"), [(2, 20, 0.55), (2, 200, 0.55), (2, 36, 0.5), (3, 36, 0.34), (10, 100, 0.1)]
)
def test_weak_models_and_those_at_chance_keep_their_order(classes, images, share):
    labels = np.arange(images) % classes
    for seed in range(30):
        assert fitting_order(labels, answers_of(labels, share, classes, seed), classes) is None


def test_a_model_that_never_answers_some_classes_keeps_its_order():
    """It was trained on five of ten classes, and takes each other class for one of these, always the same."""
    labels = np.arange(200) % 10
    assert fitting_order(labels, labels % 5, 10) is None
    unequal = np.repeat([0, 1, 2], [10, 100, 50])  # all images of class 1 are taken for class 0, which is rare
    assert fitting_order(unequal, np.array([0, 0, 2])[unequal], 3) is None


@pytest.mark.parametrize(
    ("classes", "each", "share"),
    [(2, 18, 1.0), (2, 18, 0.9), (3, 12, 1.0), (3, 12, 0.9), (3, 100, 0.7), (10, 30, 0.6), (50, 10, 0.6), (50, 10, 1)],
)
def test_any_order_is_found(classes, each, share):
    rng = np.random.default_rng(classes)
    labels = np.arange(classes * each) % classes
    order = np.roll(rng.permutation(classes), 1)
    if np.any(order == np.arange(classes)):
        order = np.roll(np.arange(classes), 1)
    outputs = np.argsort(order)[answers_of(labels, share, classes)]
    np.testing.assert_array_equal(fitting_order(labels, outputs, classes), order)


def test_two_swapped_outputs_are_found_among_many():
    labels = np.arange(1000) % 100
    swapped = np.arange(100)
    swapped[[7, 8]] = 8, 7
    answers = swapped[answers_of(labels, 0.9, 100)]
    np.testing.assert_array_equal(fitting_order(labels, answers, 100), swapped)


def test_an_order_that_fits_one_half_of_the_images_only_is_not_given():
    """Ten images of each of 100 classes, and answers at random: some order fits a sixth of them, all by chance."""
    labels = np.arange(1000) % 100
    answers = np.random.default_rng(0).integers(0, 100, 1000)
    assert fitting_order(labels, answers, 100) is None
