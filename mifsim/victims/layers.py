"""What the layers of a keras model tell about it: the pixels that it is made for, and its last activation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mifsim.networks import Model

LARGEST_UNIT_PIXEL = 4.0
"""A layer that centres values above this number, or shrinks them as much, is made for larger pixels than 0 to 1."""
FIRST_LAYERS = 3
"""Number of layers after the input among which a batch normalisation acts on pixels."""


@dataclass(frozen=True)
class Traits:
    """Properties of a model that its layers tell.

    Attributes
    ----------
    activation : str or None
        Name of the last activation, such as ``softmax``; None if it is not known.
    large_pixels : str or None
        The layer that is made for pixels from 0 to 255, such as ``'rescaling' (Rescaling)``; None if there is none.
    """

    activation: str | None = None
    large_pixels: str | None = None


def traits(model: Model) -> Traits:
    """Return what the layers of a keras model tell."""
    operations = list(_operations(model))
    return Traits(_activation(operations), next(_large_pixels(operations), None))


def _operations(model: Model) -> Iterator[Any]:
    """Yield the layers and other operations of a model, and those of models in it, in their order."""
    for operation in getattr(model, "operations", model.layers):
        if getattr(operation, "layers", None):
            yield from _operations(operation)
        else:
            yield operation


def _activation(operations: list[Any]) -> str | None:
    """Return the name of the last activation, a layer's or an operation; None if another operation follows it."""
    for operation in reversed(operations):
        kind = type(operation).__name__
        if kind in ("Softmax", "Sigmoid", "ReLU", "Relu", "LogSoftmax"):
            return kind.lower()
        if kind in ("Reshape", "Flatten", "Identity", "Dropout", "Cast", "Squeeze"):
            continue
        return getattr(getattr(operation, "activation", None), "__name__", None)
    return None


def _large_pixels(operations: list[Any]) -> Iterator[str]:
    places = [layer for layer in operations if type(layer).__name__ != "InputLayer"]
    for place, layer in enumerate(places):
        kind = type(layer).__name__
        if kind == "Rescaling":
            large = float(np.max(np.abs(np.asarray(layer.scale, float)))) < 1 / LARGEST_UNIT_PIXEL**2
        elif kind == "Normalization" and not getattr(layer, "invert", False):
            large = _centred_above_unit(layer.mean, layer.variance)
        elif kind == "BatchNormalization" and place < FIRST_LAYERS and _acts_on_channels(layer):
            large = _centred_above_unit(layer.moving_mean, layer.moving_variance)
        else:
            continue
        if large:
            yield f"'{layer.name}' ({kind})"


def _centred_above_unit(mean: Any, variance: Any) -> bool:
    highest = np.abs(np.asarray(mean, float)) + np.sqrt(np.asarray(variance, float))
    return bool(np.max(highest) > LARGEST_UNIT_PIXEL)


def _acts_on_channels(layer: Any) -> bool:
    """Return whether a batch normalisation acts on an image's channels, rather than on features."""
    return int(np.size(layer.moving_mean)) in (1, 3)
