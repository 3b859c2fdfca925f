"""The splits of a calibration: which clients, and which of the users' images, belong to which split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from mifsim.study.tuning import Splits

SPLITS = ("search", "calibration", "test")
"""Names of the splits: for the search, for the certification, and for the unbiased figures."""


def split_clients(
    clients: Sequence[str], strata: Sequence[Hashable], shares: Splits, seed: int
) -> npt.NDArray[np.int8]:
    """Assign the clients of each stratum to the splits.

    Parameters
    ----------
    clients : sequence of str
        The client of each of S sessions.
    strata : sequence
        The stratum of each session: its population (and the class under attack). Each stratum is split by `shares`.
    shares : Splits
        The study's shares of the splits.
    seed : int
        The study's seed.

    Returns
    -------
    ndarray of int8, shape (S,)
        Index into `SPLITS` for each session. All sessions of a client are in one split.

    Notes
    -----
    Within a stratum, clients are ordered by a digest of seed and client id. The order is independent of other strata,
    of the order of the sessions, and of the seeds from which clients draw.
    """
    members: dict[Hashable, set[str]] = defaultdict(set)
    for client, stratum in zip(clients, strata, strict=True):
        members[stratum].add(client)
    split_of: dict[str, int] = {}
    for found in members.values():
        # Keep the word "part" in the digest: another word would split every existing study differently.
        ordered = sorted(found, key=lambda client: hashlib.sha256(f"{seed}\0part\0{client}".encode()).digest())
        first, second = cuts(shares, len(ordered))
        for position, client in enumerate(ordered):
            split_of[client] = (position >= first) + (position >= second)
    return np.array([split_of[client] for client in clients], dtype=np.int8)


def split_images(labels: npt.NDArray[np.int64], seed: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Assign images to the splits in equal parts, class by class, so that no image is in two of them.

    The parts are equal whatever the shares of the clients are: users who draw from fewer images repeat them more often,
    so that sessions of unequal parts would not be alike.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        The class of each image.
    seed : int
        The study's seed.

    Returns
    -------
    tuple of ndarray of int64
        The indices of the images of each split, ascending. A split has no image of a class with very few images.
    """
    rng = np.random.default_rng([seed, 0x5917])
    found: tuple[list[npt.NDArray[np.int64]], ...] = ([], [], [])
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        for place, part in enumerate(np.array_split(members, len(SPLITS))):
            found[place].append(part)
    return tuple(np.sort(np.concatenate(parts)) for parts in found)


def cuts(shares: Splits, clients: int) -> tuple[int, int]:
    """Return the positions at which a stratum of `clients` clients is cut: the ends of search and calibration split."""
    return round(shares.search * clients), round((shares.search + shares.calibration) * clients)
