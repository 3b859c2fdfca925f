"""The engine of keras models, which has gradients."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from mifsim.networks import FixedBatch, Model, import_tensorflow
from mifsim.victims.engine import BATCH_SIZE, GRADIENT_BATCH_SIZE, Engine, Float32s, Ints
from mifsim.victims.loading import load_victim


class KerasEngine(Engine):
    """A keras model.

    Rows with and without a gradient are evaluated by two functions, each with a fixed batch size, so that the function
    that evaluates a row depends on that row only; see `mifsim.networks.fixed_batch`.

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
        Batch size of the function with gradients.

    Raises
    ------
    VictimError
        If the model's answer to an image depends on the other images of its batch.

    Warns
    -----
    RuntimeWarning
        If only the last bits of the answer depend on them; two runs of a study may then differ in these bits.
    """

    gives_gradients: ClassVar[bool] = True

    def __init__(
        self,
        model: Model,
        image_shape: tuple[int, ...],
        classes: int,
        batch_size: int = BATCH_SIZE,
        gradient_batch_size: int = GRADIENT_BATCH_SIZE,
    ) -> None:
        super().__init__(image_shape, classes, batch_size, gradient_batch_size)
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

        self._forward = FixedBatch(forward, batch_size, [(self.row, np.float32)])
        self._gradient = FixedBatch(with_gradient, gradient_batch_size, [(self.row, np.float32), ((), np.int32)])
        self._parameters = model.count_params()
        self._check_rows()

    @classmethod
    def from_bytes(
        cls,
        content: bytes,
        shape: tuple[int, ...],
        classes: int,
        output: Literal["softmax", "logits"] = "softmax",
        batch_size: int = BATCH_SIZE,
    ) -> Self:
        """Make an engine from the content of a ``.keras`` file.

        Parameters
        ----------
        content : bytes
            Content of the file.
        shape, classes, output
            See `load_victim`.
        batch_size : int
            See `KerasEngine`; also an upper bound of its `gradient_batch_size`.

        Raises
        ------
        VictimError
            See `load_victim` and `KerasEngine`.
        """
        with tempfile.TemporaryDirectory(prefix="mifsim-") as folder:
            path = Path(folder) / "victim.keras"
            path.write_bytes(content)
            model = load_victim(path, shape, classes, output)
        return cls(model, shape, classes, batch_size, min(batch_size, GRADIENT_BATCH_SIZE))

    def facts(self) -> dict[str, Any]:
        """Return the number of parameters."""
        return {"parameters": self._parameters}

    def _confidence(self, rows: Float32s) -> Float32s:
        (confidence,) = self._forward(rows)
        return confidence

    def _with_gradient(self, rows: Float32s, labels: Ints) -> tuple[Float32s, Float32s]:
        confidence, gradients = self._gradient(rows, labels)
        return confidence, gradients
