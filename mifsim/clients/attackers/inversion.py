"""Common code of the attacks with inversion networks: encoding of answers, training, and reconstruction of a class."""

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
"""Number of trained networks that a process caches: attackers with the same answers train the same network."""


def as_input(confidence: npt.ArrayLike, floor: float) -> Float32s:
    """Return log confidences, shifted and scaled so that 1 maps to 1, and exp(-floor) or less to 0.

    Yang et al. clamp the logarithm and add a constant. Withheld confidences (NaN) map to 0, as do the confidences that
    their truncation sets to 0.

    Parameters
    ----------
    confidence : array-like, any shape
        Confidences in [0, 1]; NaN if withheld.
    floor : float
        Logarithms are at least -floor; above 0.

    Examples
    --------
    >>> as_input([1.0, np.exp(-5.0), 0.0, np.nan], floor=20.0)
    array([1.  , 0.75, 0.  , 0.  ], dtype=float32)
    """
    known = np.nan_to_num(np.asarray(confidence, np.float64), nan=0.0)
    logs = np.log(np.maximum(known, np.exp(-floor)))
    return np.clip(1 + logs / floor, 0, 1).astype(np.float32)


def truncated(confidence: npt.ArrayLike, top: int) -> npt.NDArray[np.float64]:
    """Return confidences with all but the `top` highest set to NaN (withheld); of equal ones, the lower class is kept.

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
    """Return confidences that are nearly one-hot: `certainty` in the target, the rest divided equally."""
    vector = np.full(classes, (1 - certainty) / max(classes - 1, 1))
    vector[target] = certainty
    return vector


class WeightedMean:
    """The mean of the images queried so far, weighted by the target's confidence (or share of labels).

    A network that minimises the squared error also outputs a mean of images, namely of the images with similar answers.
    This mean therefore approximates the attacker's reconstruction if it trained on the answers so far.

    Parameters
    ----------
    first : Image
        The mean as long as all weights are 0.

    Attributes
    ----------
    image : Image
        The weighted mean.
    """

    def __init__(self, first: Image) -> None:
        self.image = first
        self._sum, self._weight = np.zeros(first.shape), 0.0

    def add(self, image: Image, weight: float) -> None:
        """Add an image; a withheld weight (NaN) counts as 0."""
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
    """Train an inversion network on the answers to some images, and return its image for another answer.

    Parameters
    ----------
    confidences : sequence of n array-likes, shape (classes,) each
        The answers: confidences, or shares of labels.
    images : sequence of n images
        The queried images, in the same order; the training depends on that order.
    wanted : array-like, shape (classes,)
        The answer to invert.
    top : int
        Number of highest confidences that the network receives; see `truncated`.
    floor : float
        Lower bound -floor on log confidences; see `as_input`.
    steps : int
        Number of training steps, each on a batch of images.

    Returns
    -------
    Image
        The reconstruction, of the shape of the queried images.
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
