"""Running a network over images: what shape it takes them in, and batches that are all of one size.

*A batch must not change its members' results.* Every call therefore has one fixed shape, padded with zeros,
and a row's result must not depend, to the last bit, on its place or its neighbours. Measured (TensorFlow 2.21
on an AMD EPYC, both victims, random places, neighbours and fill): plain graphs with oneDNN give equal bits
for every place, batch sizes from 16 to 512, and one or two threads. Graphs compiled by XLA differ between one
and two threads and run at a third of the speed; without oneDNN the colour network differs between one and two
threads, at less than half the speed. So: oneDNN (TensorFlow's default) and no XLA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.networks.tensorflow import Model, import_tensorflow


def input_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return a network's input shape for images of `shape`: grey images get a channel axis."""
    height, width, *channels = shape
    return height, width, channels[0] if channels else 1


class FixedBatch:
    """A function of a batch, traced for one batch size: fewer rows are padded with zeros, more are cut up.

    Not for several threads at once: the padded rows are written into buffers of its own.

    Parameters
    ----------
    function : callable
        From tensors to a tuple of tensors, all with the batch size as first dimension.
    batch_size : int
    inputs : sequence of (shape, dtype)
        Of one row of each input.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        batch_size: int,
        inputs: Sequence[tuple[tuple[int, ...], npt.DTypeLike]],
    ) -> None:
        self._tf = import_tensorflow().tf
        signature = [self._tf.TensorSpec((batch_size, *shape), np.dtype(kind)) for shape, kind in inputs]
        # The concrete function skips what a tf.function does to find it: 0.1 ms a call.
        self._call = self._tf.function(function, input_signature=signature).get_concrete_function()
        self._buffers = [np.zeros((batch_size, *shape), kind) for shape, kind in inputs]
        self.batch_size = batch_size

    @classmethod
    def of_network(cls, network: Model, batch_size: int, row: tuple[int, ...]) -> FixedBatch:
        """Wrap a trained network: from rows of shape `row` in float32 to a tuple of one array, its answers."""
        return cls(lambda rows: (network(rows, training=False),), batch_size, [(row, np.float32)])

    def __call__(self, *arrays: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        """Apply the function to any positive number of rows."""
        rows = len(arrays[0])
        pieces = [
            self._piece([array[start : start + self.batch_size] for array in arrays])
            for start in range(0, rows, self.batch_size)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return tuple(np.concatenate(outputs) for outputs in zip(*pieces, strict=True))

    def _piece(self, arrays: Sequence[npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], ...]:
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
