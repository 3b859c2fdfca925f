"""The evaluator: a model with another architecture than the victim's, which scores reconstructions.

It is trained on the private and the evaluator subset, that is, on the victim's training images and additional ones. It
does not recognise images that only exploit peculiarities of the victim.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.networks import FixedBatch, import_tensorflow, input_shape
from mifsim.victims.architectures import FEATURES
from mifsim.victims.loading import load_victim

BATCH_SIZE = 128


class Evaluator:
    """A model that returns confidences and features; those of an image do not depend on the other images of its batch.

    Parameters
    ----------
    path : Path
        A file written by `mifsim.victims.prepare_evaluator`.
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    classes : int
        Number of classes.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], classes: int) -> None:
        keras = import_tensorflow().keras
        model = load_victim(path, shape, classes)
        both = keras.Model(model.inputs, [model.outputs[0], model.get_layer(FEATURES).output])

        def call(images: Any) -> Any:
            return tuple(both(images, training=False))

        self.shape = shape
        self._row = input_shape(shape)
        self._both = FixedBatch(call, BATCH_SIZE, [(self._row, np.float32)])

    def measure(self, images: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return confidences and features of images of shape (n, *shape).

        Returns
        -------
        confidence : ndarray of float32, shape (n, classes)
            In [0, 1].
        features : ndarray of float32, shape (n, 64)
            The activations of the penultimate layer, which are close for similar images.

        Raises
        ------
        ValueError
            If the images have another shape, or if there are none.
        """
        if images.shape[1:] != self.shape or not len(images):
            raise ValueError(f"images of shape {images.shape}; expected (n, {', '.join(map(str, self.shape))})")
        confidence, features = self._both(images.reshape(-1, *self._row))
        return confidence, features
