"""Advice: the reading that is found, and weak models that get none. The models here are functions of what they get."""

import numpy as np
import pytest

from mifsim.victims.advice import TRIED_IMAGES, better_readings, for_layer, keys_text, other_readings, range_text, toml
from mifsim.victims.order import fitting_order
from mifsim.victims.reading import Reading

NAMES = ("dark", "red", "green")


def pictures(count, seed=0):
    """Return colour images of three classes, whose middle pixels tell the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.uniform(0.2, 0.4, (count, 4, 4, 3)).astype(np.float32)
    images[labels == 1, ..., 0] += 0.4
    images[labels == 2, ..., 1] += 0.4
    return images, labels


def recognise(pixels):
    """Classify images as they should be: red, green, blue in [0, 1]; it takes all others for dark ones."""
    red, green = pixels[..., 0].mean(axis=(1, 2)), pixels[..., 1].mean(axis=(1, 2))
    inside = (pixels.min(axis=(1, 2, 3)) >= 0) & (pixels.max(axis=(1, 2, 3)) <= 1.001)
    inside &= pixels.max(axis=(1, 2, 3)) > 0.1
    return np.where(inside, np.where(red > 0.5, 1, np.where(green > 0.5, 2, 0)), 0)


def model_for(right, order=(0, 1, 2), share=1.0, seed=0):
    """Return a model that must be read as `right`, with outputs in some order, and a share of correct answers."""
    position = np.argsort(order)

    def ask(reading, images):
        received = reading.inputs(images)
        scale, offset = (np.asarray(value, np.float32) for value in (right.factors, right.offset))
        pixels = (received - offset) / scale
        if right.reverse:
            pixels = pixels[..., ::-1]
        answers = recognise(pixels)
        noise = np.random.default_rng(seed).random(len(answers)) > share
        answers = np.where(noise, np.random.default_rng(seed + 1).integers(0, 3, len(answers)), answers)
        outputs = position[answers]
        classes = np.asarray(reading.order or (0, 1, 2))
        return classes[outputs]

    return ask


def advise(ask, given=Reading(), count=60):  # noqa: B008 (frozen)
    images, labels = pictures(count)
    return better_readings(given, ask, lambda chosen: images[chosen], labels, ask(given, images), 3)


@pytest.mark.parametrize(
    ("right", "keys"),
    [
        (Reading(scale=(255.0,)), "victim.input = { scale = 255.0 }"),
        (Reading(scale=(2.0,), offset=(-1.0,)), "victim.input = { scale = 2.0, offset = -1.0 }"),
        (Reading(scale=(-1.0,), offset=(1.0,)), "victim.input = { scale = -1.0, offset = 1.0 }"),
        (Reading(reverse=True), 'victim.input = { channels = "bgr" }'),
        (Reading(scale=(255.0,), reverse=True), 'victim.input = { scale = 255.0, channels = "bgr" }'),
        (
            Reading(scale=(255.0,), offset=(-103.939, -116.779, -123.68), reverse=True),
            'victim.input = { scale = 255.0, offset = [-103.939, -116.779, -123.68], channels = "bgr" }',
        ),
    ],
)
def test_the_right_reading_is_found(right, keys):
    (advice,), asked = advise(model_for(right))
    assert advice.reading == right
    assert (advice.after.right, advice.after.images) == (60, 60)
    assert advice.before.value < 0.7
    assert f"with {keys}, it classifies 100.00% of 60 images correctly" in advice.text(NAMES)
    assert 0 < asked <= 11 * TRIED_IMAGES


def test_values_of_the_channels_are_in_the_order_in_which_the_model_receives_them():
    """The mean of ImageNet's red is 0.485, its deviation 0.229; of blue, they are 0.406 and 0.225."""
    red, blue = (1 / 0.229, -0.485 / 0.229), (1 / 0.225, -0.406 / 0.225)
    for reverse in (False, True):
        found = [one for one in other_readings(Reading(), 3) if one.reverse == reverse and len(one.scale) == 3]
        assert len(found) == 1
        ends = [(found[0].scale[place], found[0].offset[place]) for place in (0, 2)]
        assert ends == ([blue, red] if reverse else [red, blue])
        assert range_text(found[0]) == "with the means and deviations of ImageNet removed"


def test_an_order_of_outputs_is_found_alone_and_with_a_range():
    (advice,), _ = advise(model_for(Reading(), (1, 2, 0)))
    assert keys_text(Reading(), advice.reading, NAMES) == 'victim.labels = ["red", "green", "dark"]'
    assert advice.after.value == 1
    (both,), _ = advise(model_for(Reading(scale=(255.0,)), (1, 2, 0)))
    assert both.reading == Reading(scale=(255.0,), order=(1, 2, 0))
    assert both.after.value == 1


def test_two_kinds_of_readings_that_fit_equally_are_both_given():
    """Where red and blue are the classes, blue before red looks like outputs in another order."""
    images, labels = pictures(60)
    images[labels == 0] = images[labels == 1][..., ::-1]  # blue instead of dark

    def ask(reading, chosen):
        pixels = reading.inputs(chosen)[..., ::-1]
        order = np.asarray(reading.order or (0, 1, 2))
        return order[np.where(pixels.max(axis=(1, 2, 3)) > 1.001, 2, recognise(pixels))]

    found, _ = better_readings(Reading(), ask, lambda chosen: images[chosen], labels, ask(Reading(), images), 3)
    assert {keys_text(Reading(), advice.reading, NAMES) for advice in found} == {
        'victim.input = { channels = "bgr" }', 'victim.labels = ["red", "dark", "green"]',
    }  # fmt: skip
    assert {advice.after.value for advice in found} == {1.0}


def test_ranges_that_fit_equally_are_all_given():
    """The model tells bright from dark images in any range but the one that it gets."""

    def ask(reading, images):
        received = reading.inputs(images).mean(axis=(1, 2, 3))
        if reading.factors == (1.0,) or reading.factors[0] < 0:
            return np.zeros(len(images), np.int64)
        return (received > (reading.factors[0] * 0.5 + reading.offset[0])).astype(np.int64)

    labels = np.arange(60) % 2
    images = np.full((60, 4, 4, 3), 0.2, np.float32) + 0.6 * labels[:, None, None, None].astype(np.float32)
    found, _ = better_readings(
        Reading(), ask, lambda chosen: images[chosen], labels, ask(Reading(), images), 2
    )  # fmt: skip
    ranges = [range_text(advice.reading) for advice in found if advice.changes == {"range"}]
    assert ranges[:2] == ["from 0 to 255", "from -1 to 1"]
    (alone,) = for_layer(found, "'rescaling' (Rescaling)")
    assert range_text(alone.reading) == "from 0 to 255"
    assert for_layer(found, None) == found


def test_a_wrong_input_in_the_study_is_taken_back():
    (advice,), _ = advise(model_for(Reading()), Reading(scale=(255.0,)))
    assert advice.reading == Reading()
    assert "with no victim.input, it classifies 100.00%" in advice.text(NAMES)


def test_a_partly_wrong_order_in_the_study_is_completed():
    """The study says dark, green, red, but the outputs are red, green, dark."""
    (advice,), _ = advise(model_for(Reading(), (1, 2, 0)), Reading(order=(0, 2, 1)), 90)
    assert advice.reading.order == (1, 2, 0)


@pytest.mark.parametrize(
    ("classes", "each", "exchanged"),
    [(2, 4, [(0, 1)]), (10, 3, [(0, 1)]), (4, 3, [(0, 1), (2, 3)]), (10, 3, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)])],
)
def test_exchanged_outputs_are_found_with_few_images_of_a_class(classes, each, exchanged):
    order = np.arange(classes)
    for one, other in exchanged:
        order[[one, other]] = other, one
    labels = np.repeat(np.arange(classes), each)
    assert fitting_order(labels, order[labels], classes).tolist() == order.tolist()


def test_six_images_of_two_classes_are_too_few_for_an_order():
    """A model that guesses is wrong on all of them in one of 64 cases."""
    labels = np.repeat([0, 1], 3)
    assert fitting_order(labels, 1 - labels, 2) is None


@pytest.mark.parametrize("classes", [3, 10])
def test_a_model_that_guesses_on_few_images_keeps_its_order(classes):
    labels, rng = np.repeat(np.arange(classes), 3), np.random.default_rng(0)
    found = [fitting_order(labels, rng.integers(0, classes, len(labels)), classes) for _ in range(300)]
    assert sum(order is not None for order in found) <= 3


@pytest.mark.parametrize("count", [6, 12, 36, 100, 1000])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.8, 1.0])
def test_a_model_that_is_read_correctly_gets_no_advice(count, share):
    for seed in range(0, 20, 2):
        assert advise(model_for(Reading(), share=share, seed=seed), count=count)[0] == []


def test_a_model_at_chance_gets_no_advice():
    for seed in range(0, 20, 2):
        assert advise(model_for(Reading(), share=0.0, seed=seed))[0] == []


def test_a_reading_that_only_favours_the_largest_class_is_not_advised():
    """Of unequal classes, a saturated model that always answers the largest one has the higher accuracy."""
    images, labels = pictures(300)
    kept = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels > 0)[:12]])
    images, labels = images[kept], labels[kept]
    answers = np.where(np.arange(len(labels)) % 10 < 7, labels, (labels + 1) % 3)

    def saturated(reading, chosen):
        return np.zeros(len(chosen), np.int64)

    assert np.mean(answers == labels) < np.mean(labels == 0)
    assert better_readings(Reading(), saturated, lambda chosen: images[chosen], labels, answers, 3)[0] == []


def test_a_good_model_is_not_asked_again():
    assert advise(model_for(Reading()))[1] == 0


def test_ranges_are_described():
    assert range_text(Reading()) == "in the range [0, 1]"
    assert range_text(Reading(whole=(0, 255))) == "from 0 to 255"
    assert range_text(Reading(scale=(3.0,))) == "scaled by victim.input"


def test_advised_keys_are_toml():
    import tomllib

    assert tomllib.loads(f"a = {toml(chr(127) + chr(10))}") == {"a": chr(127) + chr(10)}

    value = {"scale": 255.0, "offset": [-1.0, 0.5, 2.0], "channels": "bgr"}
    assert tomllib.loads(f"input = {toml(value)}")["input"] == value
    names = ["cat", 'a "b" \\ c', "naïve"]
    assert tomllib.loads(f"labels = {toml(names)}")["labels"] == names
