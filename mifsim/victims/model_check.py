"""Checks of a victim against the data, before anything is recorded: its reading, its accuracy, and what explains it.

The accuracy on the users' images must beat chance (`mifsim.victims.accuracy.Accuracy`). A model that does not is
refused, with the reading that is clearly better if there is one, unless ``victim.accept_any_accuracy`` is set. A model
that beats chance is accepted; a warning states a reading that is clearly better.
"""

from __future__ import annotations

import difflib
import logging
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mifsim.cache import digest
from mifsim.data.base import DataSet, ImagePool
from mifsim.errors import VictimError
from mifsim.networks import FixedBatch, Model, input_shape
from mifsim.victims.accuracy import FEWEST_TO_TELL, Accuracy, Labels, chosen_images
from mifsim.victims.advice import (
    LARGE_PIXELS,
    TRIED_IMAGES,
    better_readings,
    for_layer,
    keys_text,
    range_text,
)
from mifsim.victims.config import VictimConfig
from mifsim.victims.engines.base import Engine, NotFinite
from mifsim.victims.outputs import Output, wrong_output
from mifsim.victims.reading import PIXEL_SCALE, Float32s, Reading

logger = logging.getLogger(__name__)

CONSTANT = 1e-6
"""Largest difference of a confidence between images, up to which a model's outputs count as the same for all."""
PROGRAMS = (
    "accuracy", "advice", "engines/base", "engines/black_box", "engines/keras", "engines/onnx", "layers", "layout",
    "loading", "model_check", "order", "outputs", "reading", "../networks/onnx",
)  # fmt: skip
"""Modules, relative to this package, that determine what `check_model` returns."""
BATCH_SIZE = 64
"""Batch size of the engine that is checked."""
PROBES = 32
"""Number of the users' images by which a model is asked twice."""
LEAST_MEASURED = 0.1
"""Seconds from which the time of the answers is recorded: a model that takes less does not determine a run's time."""
PIECE = 256
"""Number of images in memory at a time."""


def check_digest() -> str:
    """Return a digest of `PROGRAMS`: if it changes, a model is checked again."""
    return digest(*((Path(__file__).parent / f"{name}.py").read_bytes() for name in PROGRAMS))


def study_reading(config: VictimConfig, data: DataSet) -> Reading:
    """Return how a study says that its model is read.

    Raises
    ------
    VictimError
        If ``victim.labels`` are not the data's classes, or ``victim.input`` does not fit the channels of its images.
    """
    channels = input_shape(data.shape)[2]
    reading = Reading(order=_order(config.labels, data))
    if config.input is None:
        return reading
    for key, values in (("scale", config.input.scale or ()), ("offset", config.input.offset)):
        if len(values) > 1 and len(values) != channels:
            raise VictimError(
                f"victim.input.{key}: {len(values)} numbers, but the images of {data.name} have {channels} channel "
                "(accepted: one number)"
            )
    if config.input.channels == "bgr" and channels != 3:
        raise VictimError(f"victim.input.channels = 'bgr': the images of {data.name} are grey (accepted: 'rgb')")
    return Reading(config.input.scale or (), config.input.offset, config.input.channels == "bgr", reading.order)


def _order(labels: tuple[str, ...] | None, data: DataSet) -> tuple[int, ...]:
    if labels is None:
        return ()
    classes = data.class_names
    composed = [unicodedata.normalize("NFC", name) for name in classes]
    if len(set(composed)) == len(classes):  # file systems may store an accented letter as two characters
        classes = tuple(composed)
        labels = tuple(unicodedata.normalize("NFC", name) for name in labels)
    if missing := [name for name in classes if name not in labels]:
        extra = [name for name in labels if name not in classes]
        near = {name: difflib.get_close_matches(name, missing, 1, 0.6) for name in extra}
        hints = [f"did you mean {found[0]!r} instead of {name!r}?" for name, found in near.items() if found]
        raise VictimError(
            f"victim.labels: {', '.join(map(repr, missing))} of {data.name} missing"
            + (f"; not a class: {', '.join(map(repr, extra))}" if extra else "")
            + "".join(f"; {hint}" for hint in hints)
            + f" (accepted: {', '.join(map(repr, classes))}, each once, in the order of the model's outputs)"
        )
    if extra := [name for name in labels if name not in classes]:
        raise VictimError(
            f"victim.labels: {', '.join(map(repr, extra))}: not a class of {data.name} (accepted: "
            f"{', '.join(map(repr, classes))}, each once, in the order of the model's outputs)"
        )
    return tuple(classes.index(name) for name in labels)


def network_accuracy(model: Model, pool: ImagePool, shape: tuple[int, ...], classes: int) -> Accuracy:
    """Return the accuracy of a model that is trained here, on all images of a pool."""
    row = input_shape(shape)
    ask = FixedBatch.of_network(model, PIECE, row)
    answers = _in_pieces(lambda images: ask(images.reshape(-1, *row))[0], pool, np.arange(len(pool))).argmax(axis=1)
    return Accuracy.of(pool.labels, answers, classes)


def check_model(engine: Engine, data: DataSet, origin: str, output: Output = "softmax") -> dict[str, Any]:
    """Measure a user's model on the users' images, and try other readings if its accuracy is low.

    Parameters
    ----------
    engine : Engine
        The model, with the reading of the study.
    data : DataSet
    origin : str
        Name of the model, for messages.
    output : {"softmax", "logits", "sigmoid"}
        The study's ``victim.output``.

    Returns
    -------
    dict
        Facts for ``run.json`` and `judge`.

    Raises
    ------
    VictimError
        If the model's outputs are not finite, or not what the study says.
    """
    pool, classes = data.subset("users"), len(data.class_names)
    chosen = chosen_images(len(pool))
    given = engine.reading
    asked = probes(pool)
    noise = np.random.default_rng(0).random(asked.shape, np.float32)
    raw = [values for images in (asked, noise) if (values := engine.raw_outputs(images)) is not None]
    if raw and (wrong := wrong_output(np.concatenate(raw), output)):
        raise VictimError(f"{origin}: {wrong}")
    try:
        engine.ask_twice(asked)
        started = time.perf_counter()
        confidence = _in_pieces(lambda images: engine.confidences(images, given), pool, chosen)
    except NotFinite:
        raise VictimError(f"{origin}: returns NaN or infinite values for images of the users") from None
    seconds = time.perf_counter() - started
    labels, answers = np.asarray(pool.labels)[chosen], confidence.argmax(axis=1)
    accuracy = Accuracy.of(labels, answers, classes)

    def ask(reading: Reading, images: Float32s) -> Labels:
        try:
            shown = engine.confidences(images.reshape(-1, *engine.image_shape), reading)
        except VictimError:  # such pixels are not valid for this model
            return np.zeros(len(images), np.int64)
        return np.asarray(shown.argmax(axis=1), np.int64)

    def images(indices: Labels) -> Float32s:
        return pool.images(chosen[indices]).reshape(-1, *engine.row)

    better, more = better_readings(given, ask, images, labels, answers, classes)
    layer = engine.traits.large_pixels
    suits = layer is not None and max(map(abs, given.factors)) <= LARGE_PIXELS
    if suits and accuracy.verdict == "better":
        some = chosen_images(len(chosen), TRIED_IMAGES)
        try:
            other = engine.confidences(pool.images(chosen[some]), _larger(given))
            suits = _likelier(other, confidence[some], labels[some])
        except VictimError:  # such pixels are not valid for this model
            suits = False
        more += len(some)
    facts = {
        **accuracy.facts(),
        "images_per_second": round(len(chosen) / seconds, 1) if seconds >= LEAST_MEASURED else None,
        "asked_images": len(chosen) + more + (2 + len(raw)) * len(asked),
        "constant_outputs": bool(np.ptp(confidence, axis=0).max() <= CONSTANT) and len(chosen) > 1,
        "advice": [advice.text(data.class_names, layer) for advice in for_layer(better, layer)],
        "layer": None if better or not suits else _layer_text(given, layer, data),
        "gives_gradients": engine.gives_gradients,
        **given.facts(data.class_names),
        **engine.facts(),
        "deterministic": engine.deterministic,
    }
    if not engine.deterministic:
        facts["largest_difference"] = engine.largest_difference
    if given.whole:
        facts["whole_numbers"] = list(given.whole)
    return facts


def answers_digest(engine: Engine, data: DataSet, identity: Sequence[Any]) -> tuple[str, str]:
    """Identify a model whose content cannot be read.

    Parameters
    ----------
    engine : Engine
        After `check_model`, which tests whether it is deterministic.
    data : DataSet
    identity : sequence of object
        What else identifies the model, such as its address.

    Returns
    -------
    fingerprint : str
        A digest of `identity` and the answers to `PROBES` images; only of the labels of these answers if the model is
        not deterministic.
    identified_by : str
        What this digest is of, for ``run.json``.
    """
    images = probes(data.subset("users"))
    answers = engine.ask_twice(images)
    if engine.deterministic:
        return digest(*identity, answers.tobytes()), f"its name and its answers to {len(images)} images"
    labels = answers.argmax(axis=1)
    return (
        digest(*identity, labels.tolist()),
        f"its name and its labels of {len(images)} images; another model that gives the same labels is not noticed",
    )


def probes(pool: ImagePool) -> Float32s:
    """Return `PROBES` images of a pool, or all if there are fewer; always the same ones, spread over the pool."""
    return pool.images(np.unique(np.linspace(0, len(pool) - 1, min(PROBES, len(pool))).astype(np.int64)))


def judge(facts: Mapping[str, Any], config: VictimConfig, origin: str) -> dict[str, Any]:
    """Accept a model that `check_model` has measured, with a warning where its accuracy is doubtful, or refuse it.

    Parameters
    ----------
    facts : mapping
        What `check_model` returned.
    config : VictimConfig
        The ``[victim]`` section of the study.
    origin : str
        Key and value that name the model, for messages.

    Returns
    -------
    dict
        The facts for ``run.json``, with ``accept_any_accuracy`` if the study sets it.

    Raises
    ------
    VictimError
        If the model's accuracy is not better than chance or its outputs are constant, or if another reading is clearly
        better and the accuracy cannot be told from chance; unless the study accepts any accuracy.
    """
    kept = {key: value for key, value in facts.items() if value not in (None, [])}
    if config.accept_any_accuracy:
        kept["accept_any_accuracy"] = True
    problem = _problem(facts)
    if problem is None:
        return kept
    text = f"{origin}: {problem}"
    refused = facts["constant_outputs"] or facts["beats_chance"] == "chance"
    refused = refused or (facts["beats_chance"] == "unclear" and bool(facts["advice"]))
    if refused and not config.accept_any_accuracy:
        raise VictimError(f"{text}; to use the model as it is, set victim.accept_any_accuracy = true")
    logger.warning(text)
    return kept


def weak_text(accuracy: Accuracy) -> str | None:
    """Return a warning for a model whose accuracy cannot be told from chance; None for others."""
    if accuracy.verdict == "better":
        return None
    return (
        f"its accuracy on the users' images, {accuracy}, "
        + ("is not better than" if accuracy.verdict == "chance" else "cannot be told from")
        + f" chance, {accuracy.chance:.2%}"
    )


def _problem(facts: Mapping[str, Any]) -> str | None:
    """Return what is wrong or doubtful with a model's accuracy and what explains it; None if nothing is."""
    accuracy = Accuracy.from_facts(facts)
    weak = weak_text(accuracy)
    if facts["constant_outputs"]:
        weak = f"its outputs are the same for all images; {weak or f'its accuracy is {accuracy}'}"
    parts = [weak] if weak else []
    if facts["advice"]:
        if not weak:
            parts.append(f"its accuracy on the users' images is {accuracy}, but another reading is clearly better")
        parts += [facts["advice"][0], *(f"or {other}" for other in facts["advice"][1:])]
        if len(facts["advice"]) > 1:
            parts.append(
                "at most one of these is right, which labels alone do not tell: choose what it was trained with"
            )
    elif facts["layer"]:
        parts.append(
            facts["layer"]
            if weak
            else f"its accuracy on the users' images is {accuracy}, but {facts['layer']}: its labels are right, its "
            "confidences are not what it was trained to give"
        )
    if weak and not facts["advice"]:
        parts.append(
            f"{accuracy.images} images are too few to tell whether another reading is better"
            if accuracy.images < FEWEST_TO_TELL
            else "no other range of the pixels, order of the channels or order of the outputs that was tried is "
            "clearly better"
        )
    return "; ".join(parts) or None


def _layer_text(reading: Reading, layer: str | None, data: DataSet) -> str:
    """Return which layer is made for larger pixels than the model receives, and the keys that give it such."""
    return (
        f"its layer {layer} is made for pixels from 0 to 255, but receives them {range_text(reading)} (see "
        f"{keys_text(reading, _larger(reading), data.class_names)})"
    )


def _larger(reading: Reading) -> Reading:
    """Return a reading with pixels from 0 to 255."""
    return Reading((PIXEL_SCALE,), (0.0,), reading.reverse, reading.order)


def _likelier(other: Float32s, given: Float32s, labels: Labels) -> bool:
    """Return whether other confidences fit the labels better: as many are right, and the log loss is lower."""
    rows = np.arange(len(labels))
    right = [np.sum(confidence.argmax(axis=1) == labels) for confidence in (other, given)]
    loss = [-np.mean(np.log(np.maximum(confidence[rows, labels], 1e-12))) for confidence in (other, given)]
    return bool(right[0] >= right[1] and loss[0] < loss[1])


def _in_pieces(ask: Callable[[Float32s], Float32s], pool: ImagePool, indices: Labels) -> Float32s:
    pieces = [ask(pool.images(indices[start : start + PIECE])) for start in range(0, len(indices), PIECE)]
    return np.concatenate(pieces)
