"""What was recorded of all sessions, in memory: the arrays that replay reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SPLITS = ("search", "calibration", "test")
"""A setting is searched on the sessions of the first, certified on the second, and shown on the third."""


@dataclass(frozen=True, eq=False)
class TraceSet:
    """The traces of S sessions, Q queries in all, one session after the other.

    All arrays are read-only: traces are shared between processes and threads, what `prepared` keeps was
    derived from them, and the kernels are compiled once, not once more for writable arrays.

    Attributes
    ----------
    offsets : ndarray of int64, shape (S + 1,)
        The queries of session s are the rows ``offsets[s]:offsets[s + 1]``, in the order in which they came.
    similarity : mapping of str to ndarray of float32, shape (Q, n_b_max)
        For each SSIM form, the similarity to the k-th previous valid query of the session in column k - 1
        (newest first); NaN where there is none. All columns of an invalid query are NaN.
    hashes : ndarray of float64, shape (Q,)
        Simple hash, in [0, 1]; NaN for an invalid query (refused as no image): it counts as a query that was
        sent, is similar to none, and enters no buffer.
    budget : ndarray of int64, shape (S,)
        Queries that the session would have been allowed; at least 1, and no fewer than it has rows.
    group : ndarray of int32, shape (S,)
        Index into `groups`.
    groups : tuple of str
        Names of the populations: attacks and honest workloads.
    is_attack : ndarray of bool, shape (S,)
        The same for all sessions of one group.
    part : ndarray of int8, shape (S,)
        Index into `PARTS`.
    clients : ndarray of str, shape (S,)
        Who ran the session. All sessions of one client are in one part.
    hash_size : int
        With which the hashes were taken.
    leak : ndarray of float64, shape (Q,), optional
        What the attacker held after the query, in [0, 1], more being worse; for a query that was not
        answered, what it held before. Only that of attack sessions is read.
    """

    offsets: Ints
    similarity: Mapping[str, npt.NDArray[np.float32]]
    hashes: Floats
    budget: Ints
    group: npt.NDArray[np.int32]
    groups: tuple[str, ...]
    is_attack: Bools
    split: npt.NDArray[np.int8]
    clients: npt.NDArray[np.str_]
    hash_size: int = 8
    leak: Floats | None = None
    prepared: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        def keep(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        kinds = {"offsets": np.int64, "hashes": np.float64, "budget": np.int64, "group": np.int32,
                 "is_attack": np.bool_, "split": np.int8, "clients": np.str_}  # fmt: skip
        for name, kind in kinds.items():
            keep(name, frozen(getattr(self, name), kind))
        keep("similarity", {form: frozen(table, np.float32) for form, table in self.similarity.items()})
        if self.leak is not None:
            keep("leak", frozen(self.leak, np.float64))
        self._check()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy in another process stays read-only too: unpickled arrays are writable by default.
        self.__dict__.update(state)
        self.__post_init__()
        for made in self.prepared.values():
            for array in made if isinstance(made, tuple) else (made,):
                array.flags.writeable = False

    def _check(self) -> None:
        sessions, queries = self.offsets.size - 1, self.hashes.size
        if sessions < 0 or self.offsets[0] != 0 or self.offsets[-1] != queries or (np.diff(self.offsets) < 0).any():
            raise ValueError(f"offsets must rise from 0 to the number of queries, {queries}")
        for name in ("budget", "group", "is_attack", "split", "clients"):
            if getattr(self, name).shape != (sessions,):
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, there are {sessions} sessions")
        if not self.similarity:
            raise ValueError("similarity holds no SSIM form")
        shapes = {form: table.shape for form, table in self.similarity.items()}
        alike = len(set(shapes.values())) == 1
        if not alike or any(len(shape) != 2 or shape[0] != queries or shape[1] < 1 for shape in shapes.values()):
            raise ValueError(f"similarity must have shape ({queries}, n_b_max) for every form, got {shapes}")
        if self.leak is not None and self.leak.shape != (queries,):
            raise ValueError(f"leak has shape {self.leak.shape}, there are {queries} queries")
        if (self.budget < np.maximum(np.diff(self.offsets), 1)).any():
            raise ValueError("a session has more queries than its budget, or a budget below 1")
        if sessions and not (self.group.min() >= 0 and self.group.max() < len(self.groups)):
            raise ValueError(f"group must index the {len(self.groups)} groups")
        if sessions and not (self.split.min() >= 0 and self.split.max() < len(SPLITS)):
            raise ValueError(f"part must index {SPLITS}")
        attacks = set(self.group[self.is_attack].tolist())
        if mixed := attacks & set(self.group[~self.is_attack].tolist()):
            raise ValueError(f"group {self.groups[min(mixed)]!r} holds both attacks and honest sessions")
        pairs = np.unique(np.stack([np.unique(self.clients, return_inverse=True)[1], self.split]), axis=1)
        if (twice := np.flatnonzero(np.diff(pairs[0]) == 0)).size:
            client = np.unique(self.clients)[pairs[0, twice[0]]]
            raise ValueError(f"client {str(client)!r} has sessions in more than one part")

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return self.offsets.size - 1

    @property
    def n_b_max(self) -> int:
        """How many earlier queries each was compared with: no larger buffer can be replayed."""
        return int(next(iter(self.similarity.values())).shape[1])

    @property
    def attack_groups(self) -> tuple[int, ...]:
        """Indices of the attacks of which there are sessions."""
        return tuple(np.unique(self.group[self.is_attack]).tolist())

    @property
    def honest_groups(self) -> tuple[int, ...]:
        """Indices of the honest workloads of which there are sessions."""
        return tuple(np.unique(self.group[~self.is_attack]).tolist())

    def subset(self, sessions: npt.ArrayLike) -> TraceSet:
        """Return the traces of some sessions; groups keep their indices, also where none is left of them.

        Parameters
        ----------
        sessions : array_like of bool, shape (S,)
            Which.
        """
        mask = np.asarray(sessions)
        if mask.dtype != np.bool_ or mask.shape != (self.sessions,):
            raise ValueError(f"need a mask of {self.sessions} bools, got {mask.dtype} of shape {mask.shape}")
        lengths = np.diff(self.offsets)
        rows = np.repeat(mask, lengths)
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(lengths[mask])]),
            similarity={form: table[rows] for form, table in self.similarity.items()},
            hashes=self.hashes[rows],
            leak=None if self.leak is None else self.leak[rows],
            **{name: getattr(self, name)[mask] for name in ("budget", "group", "is_attack", "split", "clients")},
        )

    def of_split(self, part: str) -> TraceSet:
        """Return the sessions of one of `PARTS`."""
        return self.subset(self.split == SPLITS.index(part))


def frozen(values: npt.ArrayLike, kind: Any) -> Any:
    """Return a C-contiguous, read-only view or copy of the given type."""
    array = np.ascontiguousarray(values, dtype=kind).view()
    array.flags.writeable = False
    return array
