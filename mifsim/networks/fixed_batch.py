"""Evaluation of a network in batches of one fixed size, and the network's input shape.

A row's result must not depend, to the last bit, on its position in the batch or on the other rows. Every call therefore
has one fixed shape, padded with zeros. Measured with TensorFlow 2.21 on an AMD EPYC, with both victims, and random
positions, neighbours and padding:

* Plain graphs with oneDNN give equal bits for every position, batch sizes from 16 to 512, and one or two threads.
* The same on an AMD EPYC without AVX-512, except for some sizes with dense layers: 8 and 32, but not 16, 24, 48, 64,
  128 or 256 with two threads. `FixedBatch.with_independent_rows` finds one of the others.
* Graphs compiled by XLA differ between one and two threads, and run at a third of the speed.
* Without oneDNN, the colour network differs between one and two threads, and runs at less than half the speed.

The project therefore uses oneDNN and no XLA. TensorFlow turns oneDNN on only where the processor has AVX-512;
`import_tensorflow` does so on all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.networks.tensorflow import Model, import_tensorflow


def input_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return a network's input shape (H, W, channels) for images of shape (H, W) or (H, W, 3)."""
    height, width, *channels = shape
    return height, width, channels[0] if channels else 1


class FixedBatch:
    """A function of a batch, traced for one batch size; smaller batches are padded with zeros, larger ones are split.

    It is not thread-safe, because padded rows are written to shared buffers.

    Parameters
    ----------
    function : callable
        Maps tensors to a tuple of tensors; the first dimension of all tensors is the batch size.
    batch_size : int
        Number of rows per call, at least 1.
    inputs : sequence of (shape, dtype)
        Shape and type of one row of each input.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        batch_size: int,
        inputs: Sequence[tuple[tuple[int, ...], npt.DTypeLike]],
    ) -> None:
        self._tf = import_tensorflow().tf
        signature = [self._tf.TensorSpec((batch_size, *shape), np.dtype(kind)) for shape, kind in inputs]
        # Calling the concrete function directly saves 0.1 ms per call.
        self._call = self._tf.function(function, input_signature=signature).get_concrete_function()
        self._buffers = [np.zeros((batch_size, *shape), kind) for shape, kind in inputs]
        self.batch_size = batch_size

    @classmethod
    def of_network(cls, network: Model, batch_size: int, row: tuple[int, ...]) -> FixedBatch:
        """Wrap a trained network, which maps float32 rows of shape `row`; the result is a tuple of one output array."""
        return cls(lambda rows: (network(rows, training=False),), batch_size, [(row, np.float32)])

    @classmethod
    def with_independent_rows(
        cls,
        function: Callable[..., Any],
        batch_size: int,
        inputs: Sequence[tuple[tuple[int, ...], npt.DTypeLike]],
    ) -> FixedBatch:
        """Return the function for a batch size with which a row's result does not depend on the other rows, to the bit.

        The size is `batch_size`, or else half as much again, or half as much; `batch_size` if none of them will do.
        """
        sizes = dict.fromkeys((batch_size, batch_size * 3 // 2, max(1, batch_size // 2)))
        made = [cls(function, batch_size, inputs)]
        for size in sizes:
            if size != batch_size:
                made.append(cls(function, size, inputs))
            if made[-1]._has_independent_rows():
                return made[-1]
        return made[0]

    def _has_independent_rows(self) -> bool:
        rng = np.random.default_rng(0)
        arrays = [rng.random(buffer.shape).astype(buffer.dtype) for buffer in self._buffers]
        order = rng.permutation(self.batch_size)
        outputs, permuted = self(*arrays), self(*(array[order] for array in arrays))
        return all(np.array_equal(one[order], other) for one, other in zip(outputs, permuted, strict=True))

    def __call__(self, *arrays: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        """Apply the function to n rows (n at least 1) of each input; all outputs have n rows."""
        rows = len(arrays[0])
        chunks = [
            self._chunk([array[start : start + self.batch_size] for array in arrays])
            for start in range(0, rows, self.batch_size)
        ]
        if len(chunks) == 1:
            return chunks[0]
        return tuple(np.concatenate(outputs) for outputs in zip(*chunks, strict=True))

    def _chunk(self, arrays: Sequence[npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], ...]:
        rows = len(arrays[0])
        if rows < self.batch_size:
            for buffer, array in zip(self._buffers, arrays, strict=True):
                buffer[:rows] = array
                buffer[rows:] = 0
            arrays = self._buffers
        constants = [
            self._tf.constant(array, dtype=buffer.dtype) for array, buffer in zip(arrays, self._buffers, strict=True)
        ]
        return tuple(output.numpy()[:rows] for output in self._call(*constants))
