"""Weak models: accepted as they are, and advised only what is right. They need no network."""

import logging

import numpy as np
import pytest

from mifsim.data.assembling import assemble, split_by_class
from mifsim.data.base import ArrayPool
from mifsim.errors import VictimError
from mifsim.victims import VictimConfig
from mifsim.victims.accuracy import MOST_IMAGES
from mifsim.victims.engines.base import Engine
from mifsim.victims.model_check import check_model, judge
from tests.victims.conftest import SHARES


class Answers(Engine):
    """A model that answers each image's class, in its own order, with some wrong answers; it needs no network."""

    def __init__(self, data, share, order=None, seed=0, reading=None):
        super().__init__(data.shape, len(data.class_names), 64, reading=reading)
        rng = np.random.default_rng(100 + seed)
        pool = data.subset("users")
        self.position = np.arange(self.classes) if order is None else np.argsort(order)
        self.known = {}
        images, labels = pool.images(np.arange(len(pool))), pool.labels
        wrong = rng.permutation(len(labels))[: round((1 - share) * len(labels))]
        answers = labels.copy()
        answers[wrong] = (labels[wrong] + rng.integers(1, self.classes, len(wrong))) % self.classes
        for image, answer in zip(images, answers, strict=True):
            self.known[image.tobytes()] = answer
        self.rows = 0

    def _confidence(self, rows):
        self.rows += len(rows)
        found = np.full((len(rows), self.classes), 0.1 / (self.classes - 1), np.float32)
        for place, row in enumerate(rows):
            # An image in a wrong range is none of those that it knows: all of them get the same answer.
            answer = self.known.get(row.reshape(self.image_shape).tobytes(), 0)
            found[place, self.position[answer]] = 0.9
        return found


def noise_data(classes, each, unequal=False):
    """Return a data set of noise, whose images only `Answers` recognises; `unequal`: nine tenths are of class 0."""
    counts = [each] * classes if not unequal else [9 * each * (classes - 1), *([each] * (classes - 1))]
    labels = np.repeat(np.arange(classes), counts)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 6, 6), np.uint8)
    return assemble(
        name="noise",
        shape=(6, 6),
        class_names=tuple(f"class {number}" for number in range(classes)),
        pool=ArrayPool(pixels, labels),
        subsets=split_by_class(labels, SHARES, 0),
        content=f"{classes} {each} {unequal}",
        note="made up",
    )


CONFIG = VictimConfig(file="m.keras")


@pytest.mark.parametrize(
    ("classes", "each", "share", "unequal"),
    [
        (2, 200, 0.55, False),
        (2, 1500, 0.55, False),
        (2, 30, 0.6, False),
        (3, 12, 0.5, False),
        (3, 40, 0.5, True),
        (10, 40, 0.2, False),
        (10, 100, 0.9, False),
    ],
)
def test_a_weak_model_that_is_read_correctly_is_accepted_as_it_is(classes, each, share, unequal):
    data = noise_data(classes, each, unequal)
    for seed in range(6):
        facts = check_model(Answers(data, share, seed=seed), data, "m.keras")
        assert facts["advice"] == []
        kept = judge(facts, CONFIG, "m.keras")
        assert kept["test_accuracy"] == pytest.approx(share, abs=0.06)


def test_a_model_whose_accuracy_cannot_be_told_from_chance_is_accepted_with_a_warning(caplog):
    caplog.set_level(logging.WARNING, logger="mifsim")
    data = noise_data(2, 100)
    facts = check_model(Answers(data, 0.55), data, "m.keras")
    judge(facts, CONFIG, "m.keras")
    assert facts["beats_chance"] == "unclear"
    (message,) = caplog.messages
    assert "55.00% of 60 images (95% interval 41.6% to 67.9%), cannot be told from chance, 50" in message


@pytest.mark.parametrize("share", [0.9, 0.6])
def test_a_weak_model_in_another_order_gets_the_order_that_fits(share):
    data = noise_data(4, 100)
    facts = check_model(Answers(data, share, (2, 0, 3, 1)), data, "m.keras")
    labels = '["class 2", "class 0", "class 3", "class 1"]'
    with pytest.raises(VictimError, match="another order") as caught:
        judge(facts, CONFIG, "m.keras")
    assert f"with victim.labels = {labels}, it classifies {share:.2%}" in str(caught.value)


def test_two_outputs_exchanged_among_many_are_a_warning(caplog):
    data = noise_data(20, 40)
    order = np.arange(20)
    order[[3, 11]] = 11, 3
    facts = check_model(Answers(data, 0.95, order), data, "m.keras")
    kept = judge(facts, CONFIG, "m.keras")
    assert kept["test_accuracy"] == pytest.approx(0.855, abs=0.02)
    names = [f"class {number}" for number in order]
    assert f"with victim.labels = {names}, it classifies 95.00%".replace("'", '"') in caplog.messages[-1]


def test_only_a_limited_number_of_images_is_asked():
    data = noise_data(3, 2000)
    for share, most in ((0.95, MOST_IMAGES + 64), (0.5, MOST_IMAGES + 64 + 5 * 128)):
        engine = Answers(data, share)
        facts = check_model(engine, data, "m.keras")
        assert facts["test_images"] == MOST_IMAGES
        assert engine.rows == facts["asked_images"] <= most


def test_outputs_that_are_no_numbers_are_refused():
    data = noise_data(3, 12)
    engine = Answers(data, 1.0)
    engine._confidence = lambda rows: np.full((len(rows), 3), np.nan, np.float32)
    with pytest.raises(VictimError, match=r"m\.keras: returns NaN or infinite values for images of the users"):
        check_model(engine, data, "m.keras")


def test_a_model_that_refuses_other_pixels_is_checked_without_them():
    data = noise_data(3, 12)
    engine = Answers(data, 0.5)
    answer = engine._confidence

    def strict(rows):
        if rows.min() < 0 or rows.max() > 1:
            raise VictimError("pixels must be in [0, 1]")
        return answer(rows)

    engine._confidence = strict
    assert check_model(engine, data, "m.keras")["advice"] == []
