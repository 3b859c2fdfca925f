"""What the inversion networks share: answers as a network's input, its training, and what it makes of a class."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mifsim.cache import digest
from mifsim.clients.attackers.networks import Inverter
from mifsim.clients.protocol import Image

Float32s = npt.NDArray[np.float32]

KEPT = 64
"""Trained networks that a process remembers: whoever has had the same answers has trained the same one."""


def as_input(confidence: npt.ArrayLike, floor: float) -> Float32s:
    """Return logarithms of confidences, moved and scaled so that 1 is 1, and exp(-floor) or less is 0.

    Yang et al. clamp the logarithm and add a constant. A confidence that was withheld (NaN) is 0, as are those that
    their truncation sets to 0.

    Parameters
    ----------
    confidence : array-like, any shape
    floor : float

    Examples
    --------
    >>> as_input([1.0, np.exp(-5.0), 0.0, np.nan], floor=20.0)
    array([1.  , 0.75, 0.  , 0.  ], dtype=float32)
    """
    known = np.nan_to_num(np.asarray(confidence, np.float64), nan=0.0)
    logs = np.log(np.maximum(known, np.exp(-floor)))
    return np.clip(1 + logs / floor, 0, 1).astype(np.float32)


def truncated(confidence: npt.ArrayLike, top: int) -> npt.NDArray[np.float64]:
    """Return confidences with all but the `top` highest withheld (NaN); of equal ones the lower class is kept.

    Examples
    --------
    >>> truncated([0.1, 0.6, 0.3, np.nan], top=2)
    array([nan, 0.6, 0.3, nan])
    """
    given = np.array(confidence, np.float64)
    order = np.argsort(-np.nan_to_num(given, nan=-1.0), kind="stable")
    given[order[top:]] = np.nan
    return given


def near_one_hot(target: int, classes: int, certainty: float) -> npt.NDArray[np.float64]:
    """Return the confidences of a model that is all but sure: `certainty` in the target, the rest shared evenly."""
    vector = np.full(classes, (1 - certainty) / max(classes - 1, 1))
    vector[target] = certainty
    return vector


class WeightedMean:
    """The mean of the images asked so far, weighted by what was answered of the target.

    A network that minimises the squared error answers with a mean of images, too: those that were answered alike. So
    this is what an attacker that has not trained yet would get of its answers, to a first approximation.

    Parameters
    ----------
    first : Image
        What it is as long as all weights are 0.
    """

    def __init__(self, first: Image) -> None:
        self.image = first
        self._sum, self._weight = np.zeros(first.shape), 0.0

    def add(self, image: Image, weight: float) -> None:
        """Take an image in; a weight that was withheld (NaN) is 0."""
        if weight > 0:
            self._sum = self._sum + weight * image
            self._weight += weight
            self.image = (self._sum / self._weight).astype(np.float32)


def reconstruct(
    confidences: Sequence[npt.ArrayLike],
    images: Sequence[Image],
    wanted: npt.ArrayLike,
    *,
    top: int,
    floor: float,
    steps: int,
) -> Image:
    """Train an inversion network on the answers to some images, and return what it makes of the wanted answer.

    Parameters
    ----------
    confidences : sequence of n vectors
        What was answered.
    images : sequence of n images
        What was asked, in the same order; their order here decides that of the training.
    wanted : array-like, shape (classes,)
        Confidences.
    top : int
        See `truncated`.
    floor : float
        See `as_input`.
    steps : int
        Batches of the training.
    """
    inputs = as_input(np.stack([truncated(vector, top) for vector in confidences]), floor)
    outputs = np.stack(images)
    key = digest(list(outputs.shape), inputs.tobytes(), outputs.tobytes(), steps)
    if key not in _trained:
        _trained[key] = Inverter.fit(inputs, outputs, steps, int(key, 16) % 2**31)
        if len(_trained) > KEPT:
            _trained.popitem(last=False)
    _trained.move_to_end(key)
    image: Image = _trained[key].invert(as_input(truncated(wanted, top), floor)[None])[0].reshape(images[0].shape)
    return image


_trained: OrderedDict[str, Inverter] = OrderedDict()
