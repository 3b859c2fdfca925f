"""Images that are told apart by their colour, and a model that needs no training."""

import numpy as np

from mifsim.data.assembling import assemble, split_by_class
from mifsim.data.base import ArrayPool
from tests.victims.conftest import SHARES

CLASSES = {"green": (1,), "red": (0,), "yellow": (0, 1)}
"""The classes, and the channels that are bright in their images."""
SHAPE = (8, 8, 3)
WEIGHTS = np.array([[-20.0, 20.0, 20.0], [20.0, -20.0, 20.0], [0.0, 0.0, 0.0]])
"""Weights (channels, classes) of the means of the channels, for pixels in [0, 1]."""
BIAS = (0.0, 0.0, -24.0)


def tints(classes=3, each=40):
    """Return a data set of speckles with one or two bright channels, of the first of `CLASSES`."""
    names = tuple(CLASSES)[:classes]
    labels = np.repeat(np.arange(classes), each)
    pixels = np.random.default_rng(0).integers(0, 60, (len(labels), *SHAPE), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[..., CLASSES[names[label]]] += 160
    return assemble(
        name="tints",
        shape=SHAPE,
        class_names=names,
        pool=ArrayPool(pixels, labels),
        subsets=split_by_class(labels, SHARES, 0),
        content=f"{classes} {each}",
        note="made up",
    )


def tint_model(
    *,
    order=(0, 1, 2),
    scale=1.0,
    offset=0.0,
    reverse=False,
    before=None,
    kind="float32",
    activation="softmax",
    weights=WEIGHTS,
    bias=BIAS,
):
    """Return a keras model that recognises `CLASSES` without an error.

    Parameters
    ----------
    order : tuple of int
        The class of each output.
    scale, offset, reverse
        What it is made for: pixels times `scale` plus `offset`, blue before red.
    before : layer or callable, optional
        A layer in front of it.
    kind, activation
        Type of its input, and its last activation.
    """
    from mifsim.networks import import_tensorflow

    keras = import_tensorflow().keras
    image = keras.Input(SHAPE, dtype=kind)
    x = keras.layers.GlobalAveragePooling2D()(image if before is None else before(image))
    weights, bias = np.asarray(weights, float), np.asarray(bias, float)
    bias = bias - offset / scale * weights.sum(axis=0)
    weights = (weights[::-1] if reverse else weights) / scale
    if weights.shape[1] == 3:
        weights, bias = weights[:, order], bias[list(order)]
    model = keras.Model(image, keras.layers.Dense(weights.shape[1], activation=activation)(x))
    model.layers[-1].set_weights([weights, bias])
    return model
