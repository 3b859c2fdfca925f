"""Memory of the last queries: one row of numbers per query, the oldest of which is forgotten first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt


class History:
    """A first-in, first-out ring of rows, whose array grows with the number of rows up to a capacity.

    Parameters
    ----------
    capacity : int
        Largest number of rows; at least 1.
    dtype : type
        Type of the numbers, such as ``np.float32``.

    Attributes
    ----------
    rows : ndarray, shape (allocated, width)
        The ring; its width is that of the first row.
    start, size : int
        Place of the oldest row, and number of rows. Row i, from the oldest, is ``rows[(start + i) % len(rows)]``.
    """

    __slots__ = ("capacity", "rows", "size", "start")

    def __init__(self, capacity: int, dtype: type[np.generic]) -> None:
        self.capacity = capacity
        self.rows: npt.NDArray[Any] = np.empty((0, 0), dtype)
        self.start = 0
        self.size = 0

    def push(self, row: npt.NDArray[Any]) -> None:
        """Append a copy of a row; at the capacity, it replaces the oldest one."""
        if self.size == len(self.rows) < self.capacity:
            grown = np.empty((min(self.capacity, max(8, 2 * self.size)), len(row)), self.rows.dtype)
            if self.size:
                grown[: self.size] = self.rows  # a ring that still grows starts at 0
            self.rows = grown
        self.rows[(self.start + self.size) % len(self.rows)] = row
        if self.size < len(self.rows):
            self.size += 1
        else:
            self.start = (self.start + 1) % len(self.rows)

    def savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next `push`."""
        rows, start, size = self.rows, self.start, self.size
        overwritten = rows[start].copy() if size and size == self.capacity else None

        def undo() -> None:
            self.rows, self.start, self.size = rows, start, size
            if overwritten is not None:
                rows[start] = overwritten

        return undo

    def in_order(self) -> npt.NDArray[Any]:
        """Return a copy of the rows, the oldest first; shape (0, 0) before the first row."""
        order = (self.start + np.arange(self.size)) % max(1, len(self.rows))
        rows: npt.NDArray[Any] = self.rows[order]
        return rows

    def restore(self, rows: object) -> None:
        """Replace all rows by those of `in_order`.

        Raises
        ------
        ValueError
            If the argument is not an array of the right type, or has too many rows.
        """
        if not isinstance(rows, np.ndarray) or rows.dtype != self.rows.dtype or rows.ndim != 2:
            raise ValueError(f"rows of the state: expected a {self.rows.dtype} array of shape (n, width)")
        if len(rows) > self.capacity:
            raise ValueError(f"rows of the state: {len(rows)}; accepted: at most {self.capacity}")
        self.rows, self.start, self.size = rows.copy(), 0, len(rows)
