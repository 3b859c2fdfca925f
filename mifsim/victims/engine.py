"""The batched model: the one place where images meet the victim, and what bounds a simulation's speed.

*A batch must not change its members' results*: `mifsim.networks.fixed_batch` says how that is reached, and an
engine checks it when it starts.
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
    """A model that answers batches of images, with gradients for the rows that want one.

    Rows that want a gradient and rows that do not go through two functions, each with its own fixed shape, so
    that which function a row meets depends on that row alone.

    Parameters
    ----------
    model : keras.Model
        From (n, H, W, channels) to confidences (n, classes) that add up to 1: see `load_victim`.
    image_shape : tuple of int
        Of one image: (H, W) or (H, W, 3).
    classes : int
    batch_size : int
        Of the function without gradients. Larger is faster until 256 or so; padding costs as much as images.
    gradient_batch_size : int
        Of the function with gradients, of which fewer come together.

    Raises
    ------
    VictimError
        If the model's answer to one image depends on the others in its batch.

    Warns
    -----
    RuntimeWarning
        If it does so only in its last bits: runs of one study may then differ in them.
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
                # The sum's gradient holds each row's own: no row's confidence depends on another's image.
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
        """Answer some images.

        Parameters
        ----------
        images : ndarray of float32, shape (n, H, W) or (n, H, W, 3), in [0, 1]
        gradient_of : ndarray of int32, shape (n,)
            The class whose confidence's gradient a row wants, -1 for none.

        Returns
        -------
        confidence : ndarray of float32, shape (n, classes)
        gradients : ndarray of float32, shape (m, H, W) or (m, H, W, 3)
            d confidence[gradient_of] / d image of the m rows that want one, in their order.

        Raises
        ------
        ValueError
            For images of another shape, or a class that is not there.
        """
        if images.shape[1:] != self.image_shape or gradient_of.shape != images.shape[:1]:
            raise ValueError(
                f"images {images.shape} with gradient_of {gradient_of.shape}; expected (n, "
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
        """Ask the same image first alone, then at another place among others, and compare."""
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
                        "accepted: a model that treats every image by itself"
                    )
                warnings.warn(
                    "the model's answer to an image depends, in its last bits, on the batch it comes in: "
                    "runs of one study may differ in them",
                    RuntimeWarning,
                    stacklevel=3,
                )


def engine_from_bytes(
    model: bytes, shape: tuple[int, ...], classes: int, logits: bool, batch_size: int = BATCH_SIZE
) -> BatchedModel:
    """Make an engine of a ``.keras`` file's content, as it travels to the machine that computes.

    Raises
    ------
    VictimError
        As `load_victim` does.
    """
    with tempfile.TemporaryDirectory(prefix="mifsim-") as folder:
        path = Path(folder) / "victim.keras"
        path.write_bytes(model)
        loaded = load_victim(path, shape, classes, "logits" if logits else "softmax")
    return BatchedModel(loaded, shape, classes, batch_size, min(batch_size, GRADIENT_BATCH_SIZE))
