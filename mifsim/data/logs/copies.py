"""Rows that occur twice: exact copies of a row, retries of a query, and rows whose order is not known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RETRY_SECONDS = 10.0
"""Longest time between two queries with the same image for which the second counts as a possible retry."""

Bools = npt.NDArray[np.bool_]


class Repeats(NamedTuple):
    """Repeated rows among N rows.

    Attributes
    ----------
    copy : ndarray of bool, shape (N,)
        Whether the client sent the same bytes at the same time (and in the same session) in an earlier row.
    retry : ndarray of bool, shape (N,), or None
        Whether the client sent the same image, stored in the same way or not, at most `RETRY_SECONDS` before; no
        copies. None if the unit of the times is not known, or they tell only the day.
    tied : int
        Number of rows that have the time of another row of the client, copies excepted.
    descents : int
        Number of rows that are stored after a row of the same client with a later time.
    """

    copy: Bools
    retry: Bools | None
    tied: int
    descents: int


def find_repeats(
    usable: Bools,
    client: npt.NDArray[np.int32],
    session: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    stored: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]],
    decoded: npt.NDArray[np.uint64],
    per_second: int | None,
) -> Repeats:
    """Find repeated rows.

    Parameters
    ----------
    usable : ndarray of bool, shape (N,)
        The rows that are examined.
    client, session, times : ndarray, shape (N,)
        Client and session of each row (-1: no session), and its time.
    stored : pair of ndarray of uint64, shape (N,)
        A digest of the image's bytes, 128 bits.
    decoded : ndarray of uint64, shape (N,)
        A digest of the decoded image.
    per_second : int or None
        How much the times increase in a second; None: not known.
    """
    copy = np.zeros(len(usable), np.bool_)
    rows = np.flatnonzero(usable)
    keys = (stored[1][rows], stored[0][rows], times[rows], session[rows], client[rows])
    order = rows[np.lexsort((rows, *keys))]  # ties by position, so that the first row is the original
    copy[order[1:]] = _equal(order, client, session, times, *stored)

    rows = np.flatnonzero(usable & ~copy)
    order = rows[np.lexsort((rows, times[rows], client[rows]))]
    same = _equal(order, client, times)
    tied = int((np.concatenate([[False], same]) | np.concatenate([same, [False]])).sum()) if len(order) else 0
    by_client = rows[np.argsort(client[rows], kind="stable")]
    descents = int(((times[by_client][1:] < times[by_client][:-1]) & _equal(by_client, client)).sum())

    retry = None
    if per_second is not None:
        retry = np.zeros(len(usable), np.bool_)
        order = rows[np.lexsort((rows, times[rows], decoded[rows], client[rows]))]
        values = times[order].astype(np.float64)  # a difference of two int64 may exceed their range
        near = (values[1:] - values[:-1]) <= RETRY_SECONDS * per_second
        retry[order[1:]] = near & _equal(order, client, decoded)
    return Repeats(copy, retry, tied, descents)


def _equal(order: npt.NDArray[np.int64], *columns: npt.NDArray[np.generic]) -> Bools:
    """Return for each row but the first in `order` whether it equals the row before in all columns."""
    found = np.ones(max(0, len(order) - 1), np.bool_)
    for column in columns:
        values = column[order]
        found &= np.asarray(values[1:] == values[:-1])
    return found
