"""The memory of detectors that compare queries by their coordinates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt


class Memory:
    """The coordinates of a client's last different queries.

    Parameters
    ----------
    capacity : int
        Number of queries; with one more, the oldest is forgotten.
    dimensions : int
        Number of coordinates.

    Attributes
    ----------
    columns : ndarray of float32, shape (dimensions, n)
        The coordinates, one column for each query. It grows on demand, because most clients send few queries.
    squares : ndarray of float32, shape (n,)
        Work space of the kernels.
    size, place : int
        Number of stored queries, and the column of the next one.
    """

    _FIRST = 16

    def __init__(self, capacity: int, dimensions: int) -> None:
        self.capacity = capacity
        self.columns = np.zeros((dimensions, min(capacity, self._FIRST)), np.float32)
        self.squares = np.empty(self.columns.shape[1], np.float32)
        self.size = self.place = 0

    def advance(self) -> None:
        """Count a query that was stored in column `place`, and make room for the next one."""
        self.size = max(self.size, self.place + 1)
        self.place = (self.place + 1) % self.capacity
        if self.place == self.columns.shape[1]:
            grown = np.zeros((len(self.columns), min(self.capacity, 2 * self.size)), np.float32)
            grown[:, : self.size] = self.columns
            self.columns, self.squares = grown, np.empty(grown.shape[1], np.float32)

    def savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next query."""
        columns, squares, size, place = self.columns, self.squares, self.size, self.place
        overwritten = columns[:, place].copy()

        def undo() -> None:
            self.columns, self.squares, self.size, self.place = columns, squares, size, place
            columns[:, place] = overwritten

        return undo

    def rows(self) -> npt.NDArray[np.float32]:
        """Return the stored coordinates, one row for each query, the oldest first."""
        order = np.arange(self.size)
        if self.size == self.capacity:
            order = (order + self.place) % self.capacity
        return np.ascontiguousarray(self.columns[:, order].T)

    def restore(self, rows: npt.NDArray[np.float32]) -> None:
        """Store rows that `rows` returned."""
        if rows.ndim != 2 or rows.shape[1] != len(self.columns) or len(rows) > self.capacity:
            raise ValueError(f"memory of shape {rows.shape}: expected (at most {self.capacity}, {len(self.columns)})")
        for row in rows.astype(np.float32):
            self.columns[:, self.place] = row
            self.advance()
