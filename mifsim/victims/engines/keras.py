"""The engine of keras models, which has gradients."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np

from mifsim.networks import FixedBatch, Model, SmallerBatches, import_tensorflow
from mifsim.victims.engines.base import BATCH_SIZE, GRADIENT_BATCH_SIZE, Engine, Float32s, Ints
from mifsim.victims.layers import Traits
from mifsim.victims.loading import open_victim
from mifsim.victims.outputs import Output
from mifsim.victims.reading import Reading


class KerasEngine(Engine):
    """A keras model.

    Rows with and without a gradient are evaluated by two functions, each with a fixed batch size, so that the function
    that evaluates a row depends on that row only; see `mifsim.networks.fixed_batch`. Few rows without a gradient are
    evaluated in a smaller batch, if that gives the same bits.

    Parameters
    ----------
    model : keras.Model
        Maps what the model receives, float32 of shape (n, H, W, channels), to confidences (n, classes) in the order of
        its outputs; see `open_victim`.
    image_shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    classes : int
        Number of classes.
    batch_size : int
        Batch size of the function without gradients. Larger batches are faster up to about 256; a padded row takes as
        long as an image.
    gradient_batch_size : int
        Batch size of the function with gradients, or nearly: see `FixedBatch.with_independent_rows`.
    reading : Reading or None
        See `Engine`.
    traits : Traits
        What the model's layers tell about it.

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
        reading: Reading | None = None,
        traits: Traits | None = None,
    ) -> None:
        super().__init__(image_shape, classes, batch_size, gradient_batch_size, reading)
        self.traits = traits or Traits()
        self.gives_gradients = self.reading.has_gradient
        tf = import_tensorflow().tf

        def forward(images: Any) -> tuple[Any]:
            return (tf.cast(model(images, training=False), tf.float32),)

        def with_gradient(images: Any, outputs: Any) -> tuple[Any, Any]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                confidence = tf.cast(model(images, training=False), tf.float32)
                # The gradient of the sum contains that of each row, as no confidence depends on another row's image.
                asked = tf.reduce_sum(confidence * tf.one_hot(outputs, classes))
            gradient = tape.gradient(asked, images)
            if gradient is None:  # an operation on the way, such as rounding, has no derivative
                self.gives_gradients = False
                gradient = tf.zeros_like(images)
            return confidence, gradient

        self._forward = SmallerBatches(forward, batch_size, [(self.row, np.float32)])
        if self.gives_gradients:
            inputs = [(self.row, np.float32), ((), np.int32)]
            self._gradient = FixedBatch.with_independent_rows(with_gradient, gradient_batch_size, inputs)
            self.gradient_batch_size = self._gradient.batch_size
        self._parameters = model.count_params()
        self._check_rows()

    @classmethod
    def from_file(
        cls,
        path: Path,
        shape: tuple[int, ...],
        classes: int,
        output: Output = "softmax",
        batch_size: int = BATCH_SIZE,
        reading: Reading | None = None,
    ) -> Self:
        """Make an engine from a ``.keras`` file.

        Parameters
        ----------
        path, shape, classes, output, reading
            See `open_victim`.
        batch_size : int
            See `KerasEngine`; also an upper bound of its `gradient_batch_size`.

        Raises
        ------
        VictimError
            See `open_victim` and `KerasEngine`.
        """
        loaded = open_victim(path, shape, classes, output, reading)
        gradient_batch_size = min(batch_size, GRADIENT_BATCH_SIZE)
        return cls(loaded.model, shape, classes, batch_size, gradient_batch_size, loaded.reading, loaded.traits)

    @classmethod
    def from_bytes(
        cls,
        content: bytes,
        shape: tuple[int, ...],
        classes: int,
        output: Output = "softmax",
        batch_size: int = BATCH_SIZE,
        reading: Reading | None = None,
    ) -> Self:
        """Make an engine from the content of a ``.keras`` file; see `from_file`."""
        with tempfile.TemporaryDirectory(prefix="mifsim-") as folder:
            path = Path(folder) / "victim.keras"
            path.write_bytes(content)
            return cls.from_file(path, shape, classes, output, batch_size, reading)

    def facts(self) -> dict[str, Any]:
        """Return the number of parameters."""
        return {"parameters": self._parameters}

    def _confidence(self, rows: Float32s) -> Float32s:
        (confidence,) = self._forward(rows)
        return confidence

    def _with_gradient(self, rows: Float32s, outputs: Ints) -> tuple[Float32s, Float32s]:
        confidence, gradients = self._gradient(rows, outputs)
        return confidence, gradients
