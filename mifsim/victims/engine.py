"""The batched model, which evaluates all images that reach the victim and limits the speed of a simulation.

The result for an image must not depend on the other images of its batch. `mifsim.networks.fixed_batch` describes how
this is achieved; an engine checks it when it starts.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.errors import VictimError
from mifsim.networks import FixedBatch, Model, import_tensorflow, input_shape
from mifsim.victims.loading import load_victim

Float32s = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

BATCH_SIZE = 256
GRADIENT_BATCH_SIZE = 32


class BatchedModel:
    """A model that answers batches of images, with gradients for the rows that request one.

    Rows with and without a gradient are evaluated by two functions, each with a fixed batch size, so that the function
    that evaluates a row depends on that row only.

    Parameters
    ----------
    model : keras.Model
        Maps images (n, H, W, channels) to confidences (n, classes) that add up to 1; see `load_victim`.
    image_shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    classes : int
        Number of classes.
    batch_size : int
        Batch size of the function without gradients. Larger batches are faster up to about 256; a padded row takes as
        long as an image.
    gradient_batch_size : int
        Batch size of the function with gradients. It is smaller because fewer such rows arrive at the same time.

    Raises
    ------
    VictimError
        If the model's answer to an image depends on the other images of its batch.

    Warns
    -----
    RuntimeWarning
        If only the last bits of the answer depend on them; two runs of a study may then differ in these bits.
    """

    def __init__(
        self,
        model: Model,
        image_shape: tuple[int, ...],
        classes: int,
        batch_size: int = BATCH_SIZE,
        gradient_batch_size: int = GRADIENT_BATCH_SIZE,
    ) -> None:
        tf = import_tensorflow().tf

        def forward(images: Any) -> tuple[Any]:
            return (tf.cast(model(images, training=False), tf.float32),)

        def with_gradient(images: Any, labels: Any) -> tuple[Any, Any]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                confidence = tf.cast(model(images, training=False), tf.float32)
                # The gradient of the sum contains that of each row, as no confidence depends on another row's image.
                asked = tf.reduce_sum(confidence * tf.one_hot(labels, classes))
            return confidence, tape.gradient(asked, images)

        row = input_shape(image_shape)
        self.image_shape = image_shape
        self.classes = classes
        self.batch_size = batch_size
        self.gradient_batch_size = gradient_batch_size
        self._forward = FixedBatch(forward, batch_size, [(row, np.float32)])
        self._with_gradient = FixedBatch(with_gradient, gradient_batch_size, [(row, np.float32), ((), np.int32)])
        self._check_rows()

    def predict(self, images: Float32s, gradient_of: Ints) -> tuple[Float32s, Float32s]:
        """Return the model's answers to some images.

        Parameters
        ----------
        images : ndarray of float32, shape (n, H, W) or (n, H, W, 3)
            The images, in [0, 1].
        gradient_of : ndarray of int32, shape (n,)
            The class whose confidence is differentiated for each row; -1 for no gradient.

        Returns
        -------
        confidence : ndarray of float32, shape (n, classes)
            The confidence in each class, in [0, 1].
        gradients : ndarray of float32, shape (m, H, W) or (m, H, W, 3)
            d confidence[gradient_of] / d image for the m rows that request one, in their order.

        Raises
        ------
        ValueError
            For images of another shape, or an invalid class.
        """
        if images.shape[1:] != self.image_shape or gradient_of.shape != images.shape[:1]:
            raise ValueError(
                f"images of shape {images.shape} with gradient_of of shape {gradient_of.shape}; expected (n, "
                f"{', '.join(map(str, self.image_shape))}) with (n,)"
            )
        if len(images) and (gradient_of.max() >= self.classes or gradient_of.min() < -1):
            raise ValueError(f"gradient_of must be -1 to {self.classes - 1}")
        rows = images if images.ndim == 4 else images[..., None]
        asking = np.flatnonzero(gradient_of >= 0)
        if not len(asking):
            return self._confidence(rows), np.empty((0, *self.image_shape), np.float32)
        if len(asking) == len(rows):
            confidence, gradients = self._with_gradient(rows, gradient_of)
        else:
            others = np.flatnonzero(gradient_of < 0)
            confidence = np.empty((len(rows), self.classes), np.float32)
            confidence[others] = self._confidence(rows[others])
            confidence[asking], gradients = self._with_gradient(rows[asking], gradient_of[asking])
        return confidence, gradients.reshape(-1, *self.image_shape)

    def _confidence(self, rows: Float32s) -> Float32s:
        if not len(rows):
            return np.empty((0, self.classes), np.float32)
        (confidence,) = self._forward(rows)
        return confidence

    def _check_rows(self) -> None:
        """Evaluate one image alone and then in a batch with other images, and compare the answers."""
        rng = np.random.default_rng(0)
        images = rng.random((self.batch_size, *self.image_shape), np.float32)
        for size, wanted in ((self.batch_size, -1), (self.gradient_batch_size, 0)):
            alone = self.predict(images[-1:], np.full(1, wanted, np.int32))
            crowd = images[-size:]
            among = self.predict(crowd, np.full(len(crowd), wanted, np.int32))
            for one, many in zip(alone, among, strict=True):
                if not len(one) or np.array_equal(one[-1], many[-1]):
                    continue
                if not np.allclose(one[-1], many[-1], rtol=1e-3, atol=1e-5):
                    raise VictimError(
                        "the model's answer to an image depends on the other images of its batch; "
                        "accepted: a model that evaluates every image independently"
                    )
                warnings.warn(
                    "the model's answer to an image depends, in its last bits, on the other images of its batch: "
                    "two runs of a study may differ in these bits",
                    RuntimeWarning,
                    stacklevel=3,
                )


def engine_from_bytes(
    model: bytes, shape: tuple[int, ...], classes: int, logits: bool, batch_size: int = BATCH_SIZE
) -> BatchedModel:
    """Make an engine from the content of a ``.keras`` file, which is sent to the machine that runs the model.

    Parameters
    ----------
    model : bytes
        Content of the file.
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    classes : int
        Number of classes.
    logits : bool
        Whether the model's output is logits, to which a softmax is added.
    batch_size : int
        See `BatchedModel`; also an upper bound of its `gradient_batch_size`.

    Returns
    -------
    BatchedModel
        The engine.

    Raises
    ------
    VictimError
        See `load_victim` and `BatchedModel`.
    """
    with tempfile.TemporaryDirectory(prefix="mifsim-") as folder:
        path = Path(folder) / "victim.keras"
        path.write_bytes(model)
        loaded = load_victim(path, shape, classes, "logits" if logits else "softmax")
    return BatchedModel(loaded, shape, classes, batch_size, min(batch_size, GRADIENT_BATCH_SIZE))
