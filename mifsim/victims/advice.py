"""Other readings of a model, tried where its accuracy is low, and the one that is clearly better.

A reading is advised only if it is clearly better on the same images (`mifsim.victims.accuracy.clearly_better`), so a
weak model that is read correctly gets no advice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from mifsim.victims.accuracy import Accuracy, Labels, chosen_images, clearly_better, mean_recall
from mifsim.victims.order import fitting_order
from mifsim.victims.reading import Float32s, Reading

Ask = Callable[[Reading, Float32s], Labels]
"""Returns a model's answers (classes) to some images under a reading."""

TRIED_IMAGES = 128
"""Maximum number of images for which each other reading is asked."""
GOOD_ACCURACY = 0.9
"""Accuracy from which no other range of the pixels is tried."""
LARGE_PIXELS = 127.0
"""Scale above which pixels are those that a layer such as ``Rescaling(1 / 255)`` is made for."""
SIMPLER = 0.05
"""Mean recall that a less simple reading must gain over a simpler one."""
EQUAL, MOST_EQUAL = 0.01, 3
"""Difference of the mean recall up to which readings are equally good, and how many of them are stated."""

IMAGENET_SCALE = (1 / 0.229, 1 / 0.224, 1 / 0.225)
IMAGENET_OFFSET = (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225)


class PixelRange(NamedTuple):
    """Pixels as a model may receive them.

    Attributes
    ----------
    text : str
        Their description in messages.
    scale, offset
        See `Reading`; several values are those of red, green and blue.
    channels : int
        Number of channels of the images for which it is tried; 0 for any.
    """

    text: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    channels: int = 0

    def read_by(self, reading: Reading) -> Reading:
        """Return a reading with this range, in the order of its channels."""
        step = -1 if reading.reverse else 1
        return replace(reading, scale=self.scale[::step], offset=self.offset[::step])


RANGES = (
    PixelRange("in the range [0, 1]", (), (0.0,)),
    PixelRange("from 0 to 255", (255.0,), (0.0,)),
    PixelRange("from -1 to 1", (2.0,), (-1.0,)),
    PixelRange("from 1 (black) to 0 (white)", (-1.0,), (1.0,)),
    PixelRange("with the means and deviations of ImageNet removed", IMAGENET_SCALE, IMAGENET_OFFSET, 3),
    PixelRange("from 0 to 255 with the means of ImageNet removed", (255.0,), (-123.68, -116.779, -103.939), 3),
)
WHOLE_RANGES = (
    PixelRange("from 0 to 255", (), (0.0,)),
    PixelRange("from 255 (black) to 0 (white)", (-255.0,), (255.0,)),
)


@dataclass(frozen=True)
class Advice:
    """A reading that is clearly better than the one that the study gives.

    Attributes
    ----------
    given, reading : Reading
        The study's reading, and the better one.
    before, after : Accuracy
        Their accuracies on the same images.
    """

    given: Reading
    reading: Reading
    before: Accuracy
    after: Accuracy

    @property
    def changes(self) -> frozenset[str]:
        """What differs between the two readings: ``range``, ``channels``, ``order``."""
        return _changes(self.given, self.reading)

    def text(self, class_names: Sequence[str], layer: str | None = None) -> str:
        """Return what seems to be wrong, the keys that mend it, and the accuracy with them.

        Parameters
        ----------
        class_names : sequence of str
            The data's classes.
        layer : str or None
            The layer of the model that is made for pixels from 0 to 255.
        """
        seems = []
        if "range" in self.changes:
            expected, received = range_text(self.reading), range_text(self.given)
            if layer is not None and max(map(abs, self.reading.factors)) > LARGE_PIXELS:
                seems.append(f"its layer {layer} is made for pixels {expected}, but receives them {received}")
            else:
                seems.append(f"it seems to expect pixels {expected}, but receives them {received}")
        if "channels" in self.changes:
            order = "blue, green, red" if self.reading.reverse else "red, green, blue"
            seems.append(f"it seems to expect the channels in the order {order}")
        if "order" in self.changes:
            seems.append("its outputs seem to be in another order than the data's classes")
        return (
            f"{' and '.join(seems)}: with {keys_text(self.given, self.reading, class_names)}, it classifies "
            f"{self.after.value:.2%} of {self.after.images:,} images correctly (instead of {self.before.value:.2%})"
        )


def better_readings(
    given: Reading, ask: Ask, images: Callable[[Labels], Float32s], labels: Labels, answers: Labels, classes: int
) -> tuple[list[Advice], int]:
    """Return the readings that are clearly better than the given one, and the number of images asked for them.

    There are several if they differ in kind and are about equally good, such as an order of the channels and an order
    of the outputs, where the classes are colours. Readings that change more are left out if a simpler one is as good.

    Parameters
    ----------
    given : Reading
        The study's reading.
    ask : callable
        The model.
    images : callable
        Returns the images (n, H, W, channels) at some indices.
    labels, answers : ndarray of int64, shape (n,)
        The classes of all images, and the model's answers to them under the study's reading.
    classes : int
        Number of classes.
    """
    order = fitting_order(labels, answers, classes)
    found = [] if order is None else [_advice(given, given.reordered(order), labels, answers, order[answers], classes)]
    if np.mean(answers == labels) >= GOOD_ACCURACY:
        return found, 0
    some = chosen_images(len(labels), TRIED_IMAGES)
    batch, truth, before = images(some), labels[some], answers[some]
    recalls = [] if order is None else [mean_recall(truth, order[before] == truth)]
    readings = list(other_readings(given, batch.shape[-1]))
    for reading in readings:
        after = ask(reading, batch)
        options = [(reading, after)]
        if (order := fitting_order(truth, after, classes)) is not None:
            options.append((reading.reordered(order), order[after]))
        for option, classified in options:
            if clearly_better(truth, before == truth, classified == truth):
                recalls.append(mean_recall(truth, classified == truth))
                found.append(_advice(given, option, truth, before, classified, classes))
    return _simplest(found, recalls), len(readings) * len(batch)


def _simplest(found: list[Advice], recalls: list[float]) -> list[Advice]:
    """Return the best advice of each kind of change, of the kinds with fewest changes that are about the best.

    Several of one kind that are equally good are all returned, at most `MOST_EQUAL`: labels alone do not tell which of
    them is right.
    """
    by_kind: dict[frozenset[str], list[tuple[float, Advice]]] = {}
    for advice, recall in zip(found, recalls, strict=True):
        if recall >= max(recalls) - SIMPLER:
            by_kind.setdefault(advice.changes, []).append((recall, advice))
    chosen = []
    for kind, members in by_kind.items():
        if not any(other < kind for other in by_kind):
            best = max(recall for recall, _ in members)
            chosen += [advice for recall, advice in members if recall >= best - EQUAL][:MOST_EQUAL]
    return chosen


def for_layer(found: list[Advice], layer: str | None) -> list[Advice]:
    """Return the advice that fits a layer made for pixels from 0 to 255, if the model has one and there is such."""
    fitting = [advice for advice in found if max(map(abs, advice.reading.factors)) > LARGE_PIXELS]
    return fitting[:1] if layer is not None and fitting else found


def _changes(given: Reading, reading: Reading) -> frozenset[str]:
    differs = {
        "range": (reading.factors, reading.offset) != (given.factors, given.offset),
        "channels": reading.reverse != given.reverse,
        "order": reading.order != given.order,
    }
    return frozenset(kind for kind, changed in differs.items() if changed)


def other_readings(given: Reading, channels: int) -> Iterator[Reading]:
    """Yield the readings to try: other ranges of the pixels, then the same with the channels in reverse order."""
    ranges = [found for found in (WHOLE_RANGES if given.whole else RANGES) if found.channels in (0, channels)]
    for reverse in (given.reverse, not given.reverse)[: 2 if channels == 3 else 1]:
        same = replace(given, reverse=reverse)
        if same != given:
            yield same
        for option in ranges:
            reading = option.read_by(same)
            if (reading.factors, reading.offset) != (given.factors, given.offset):
                yield reading


def range_text(reading: Reading) -> str:
    """Return a description of the pixels that a model receives."""
    for option in WHOLE_RANGES if reading.whole else RANGES:
        same = option.read_by(reading)
        if (same.factors, same.offset) == (reading.factors, reading.offset):
            return option.text
    return "scaled by victim.input"


def keys_text(given: Reading, reading: Reading, class_names: Sequence[str]) -> str:
    """Return the keys of a study that change the given reading to another one, as TOML."""
    old, new = given.facts(class_names), reading.facts(class_names)
    changed = [f"victim.{key} = {toml(new[key])}" for key in new if new[key] != old.get(key)]
    removed = [f"victim.{key}" for key in old if key not in new]
    return " and ".join([*changed, *([f"no {' and no '.join(removed)}"] if removed else [])])


def toml(value: Any) -> str:
    """Return a value as TOML in one line.

    Examples
    --------
    >>> toml({"scale": 255.0, "channels": "bgr"}), toml(["cat", "dog"])
    ('{ scale = 255.0, channels = "bgr" }', '["cat", "dog"]')
    """
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    text = json.dumps(round(value, 6) if isinstance(value, float) else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007F")  # JSON allows this control character in text, TOML does not


def _advice(given: Reading, reading: Reading, labels: Labels, before: Labels, after: Labels, classes: int) -> Advice:
    return Advice(given, reading, Accuracy.of(labels, before, classes), Accuracy.of(labels, after, classes))
