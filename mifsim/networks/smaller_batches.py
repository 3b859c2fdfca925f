"""Evaluation of a few rows in a smaller batch than the whole one, where that gives the same bits.

A padded row takes as long as an image. Towards the end of a run only a few sessions ask, and a batch of 256 is mostly
padding. ``tests/benchmarks/test_smaller_batches.py`` measures the gain. On an AMD EPYC without AVX-512, LeNet-5 answers
up to 64 images about 3 times as fast as in a batch of 256, and up to 128 about twice as fast. Smaller sizes gain
little, and some of them have other last bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.networks.fixed_batch import FixedBatch

LEAST = 16
"""Batches are not made smaller than this."""
CALLS = 20
"""Number of calls that would have fitted into a smaller batch before it is made: it takes as long as these to trace."""


class SmallerBatches:
    """A function of a batch, as `FixedBatch`, that also uses a half and a quarter of the batch size for fewer rows.

    A smaller batch is made when it was often large enough. It is used only if its outputs are those of the whole batch
    to the bit, for random rows and for those of the call, so that the outputs do not depend on when it is made.

    Parameters
    ----------
    function, batch_size, inputs
        See `FixedBatch`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        batch_size: int,
        inputs: Sequence[tuple[tuple[int, ...], npt.DTypeLike]],
    ) -> None:
        self._function = function
        self._inputs = inputs
        self._whole = FixedBatch(function, batch_size, inputs)
        self._sizes = [size for size in (batch_size // 4, batch_size // 2) if size >= LEAST]
        self._made: dict[int, FixedBatch | None] = {}
        self._calls: Counter[int] = Counter()
        self.batch_size = batch_size

    def __call__(self, *arrays: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        """Apply the function to n rows (n at least 1) of each input; all outputs have n rows."""
        rows = len(arrays[0])
        rest = rows % self.batch_size
        smaller = self._holding(rest, [array[rows - rest :] for array in arrays]) if rest else None
        if smaller is None:
            return self._whole(*arrays)
        last = smaller(*(array[rows - rest :] for array in arrays))
        if rest == rows:
            return last
        first = self._whole(*(array[: rows - rest] for array in arrays))
        return tuple(np.concatenate(parts) for parts in zip(first, last, strict=True))

    def _holding(self, rows: int, arrays: Sequence[npt.NDArray[Any]]) -> FixedBatch | None:
        """Return the smallest batch for a number of rows, less than the whole; None: the whole one."""
        for size in self._sizes:
            if rows > size:
                continue
            if size not in self._made:
                self._calls[size] += 1
                if self._calls[size] < CALLS:
                    return None
                self._made[size] = self._verified(size, arrays)
            if (found := self._made[size]) is not None:
                return found
        return None

    def _verified(self, size: int, arrays: Sequence[npt.NDArray[Any]]) -> FixedBatch | None:
        """Return a smaller batch if it gives the bits of the whole one, for some rows and for random ones."""
        try:
            smaller = FixedBatch(self._function, size, self._inputs)
        except Exception:  # of any class: the model takes batches of one size only
            return None
        rng = np.random.default_rng(0)
        rows = 2 * self.batch_size
        drawn = [rng.random((rows, *shape)).astype(kind) for shape, kind in self._inputs]
        alike = all(
            np.array_equal(one, other)
            for given in (drawn, arrays)
            for one, other in zip(smaller(*given), self._whole(*given), strict=True)
        )
        return smaller if alike else None
