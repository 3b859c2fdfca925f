"""What was recorded of all sessions, in memory: the arrays that replay reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.defense import DetectorConfig
from mifsim.defense.kinds import columns_of, covers
from mifsim.defense.recording import RecordedSessions, RecordingSpec, frozen

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SPLITS = ("search", "calibration", "test")
"""A configuration is searched on the sessions of the first, certified on the second, and shown on the third."""


@dataclass(frozen=True, eq=False)
class TraceSet:
    """The traces of S sessions, Q queries in all, one session after the other.

    All arrays are read-only: traces are shared between processes and threads, what `prepared` keeps was
    derived from them, and the kernels are compiled once, not once more for writable arrays.

    Attributes
    ----------
    offsets : ndarray of int64, shape (S + 1,)
        The queries of session s are the rows ``offsets[s]:offsets[s + 1]``, in the order in which they came.
    valid : ndarray of bool, shape (Q,)
        False for a query that was refused as no image: it counts as a query that was sent, and no detector's state
        changes by it.
    recordings : mapping of RecordingSpec to RecordedSessions
        What recorders kept of the queries, all of the same `offsets` and `valid`; empty where no kind needs any.
    budget : ndarray of int64, shape (S,)
        Queries that the session would have been allowed; at least 1, and no fewer than it has rows.
    group : ndarray of int32, shape (S,)
        Index into `groups`.
    groups : tuple of str
        Names of the populations: attacks and honest workloads.
    is_attack : ndarray of bool, shape (S,)
        The same for all sessions of one group.
    split : ndarray of int8, shape (S,)
        Index into `SPLITS`.
    clients : ndarray of str, shape (S,)
        Which client the session is of. All sessions of one client are in one split.
    leak : ndarray of float64, shape (Q,), optional
        How much the attacker's reconstruction after the query leaks, in [0, 1], more being worse; for a query that
        was not answered, that before it. Only that of attack sessions is read.
    """

    offsets: Ints
    valid: Bools
    recordings: Mapping[RecordingSpec, RecordedSessions]
    budget: Ints
    group: npt.NDArray[np.int32]
    groups: tuple[str, ...]
    is_attack: Bools
    split: npt.NDArray[np.int8]
    clients: npt.NDArray[np.str_]
    leak: Floats | None = None
    prepared: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        def keep(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        kinds = {"offsets": np.int64, "valid": np.bool_, "budget": np.int64, "group": np.int32,
                 "is_attack": np.bool_, "split": np.int8, "clients": np.str_}  # fmt: skip
        for name, kind in kinds.items():
            keep(name, frozen(getattr(self, name), kind))
        keep("recordings", {spec: self._attached(made) for spec, made in self.recordings.items()})
        if self.leak is not None:
            keep("leak", frozen(self.leak, np.float64))
        self._check()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy in another process stays read-only too: unpickled arrays are writable by default.
        self.__dict__.update(state)
        self.__post_init__()
        for made in self.prepared.values():
            made.flags.writeable = False

    def _attached(self, made: RecordedSessions) -> RecordedSessions:
        """Return a recording with this set's arrays, its columns read-only."""
        columns = {name: frozen(array) for name, array in made.columns.items()}
        return RecordedSessions(self.offsets, self.valid, columns, made.options, made.prepared)

    def _check(self) -> None:
        sessions, queries = self.offsets.size - 1, self.valid.size
        if sessions < 0 or self.offsets[0] != 0 or self.offsets[-1] != queries or (np.diff(self.offsets) < 0).any():
            raise ValueError(f"offsets must rise from 0 to the number of queries, {queries}")
        for name in ("budget", "group", "is_attack", "split", "clients"):
            if getattr(self, name).shape != (sessions,):
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, there are {sessions} sessions")
        for spec, made in self.recordings.items():
            wrong = [name for name, array in made.columns.items() if array.ndim not in (1, 2) or len(array) != queries]
            if wrong:
                raise ValueError(f"{spec.kind}: column {wrong[0]!r} must have a row for each of {queries} queries")
        if self.leak is not None and self.leak.shape != (queries,):
            raise ValueError(f"leak has shape {self.leak.shape}, there are {queries} queries")
        if (self.budget < np.maximum(np.diff(self.offsets), 1)).any():
            raise ValueError("a session has more queries than its budget, or a budget below 1")
        if sessions and not (self.group.min() >= 0 and self.group.max() < len(self.groups)):
            raise ValueError(f"group must index the {len(self.groups)} groups")
        if sessions and not (self.split.min() >= 0 and self.split.max() < len(SPLITS)):
            raise ValueError(f"split must index {SPLITS}")
        attacks = set(self.group[self.is_attack].tolist())
        if mixed := attacks & set(self.group[~self.is_attack].tolist()):
            raise ValueError(f"group {self.groups[min(mixed)]!r} holds both attacks and honest sessions")
        pairs = np.unique(np.stack([np.unique(self.clients, return_inverse=True)[1], self.split]), axis=1)
        if (twice := np.flatnonzero(np.diff(pairs[0]) == 0)).size:
            client = np.unique(self.clients)[pairs[0, twice[0]]]
            raise ValueError(f"client {str(client)!r} has sessions in more than one split")

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return self.offsets.size - 1

    def recorded(self, config: DetectorConfig) -> RecordedSessions:
        """Return the recording from which a configuration can be replayed.

        Raises
        ------
        ValueError
            Where there is none.
        """
        wanted = config.recording_spec()
        for spec, made in self.recordings.items():
            if covers(spec, wanted):
                return made
        if columns_of(wanted):
            there_are = ", ".join(f"{spec.kind} {dict(spec.options)}" for spec in self.recordings) or "none"
            raise ValueError(f"no recording holds what {config} needs, {dict(wanted.options)}; there are: {there_are}")
        return RecordedSessions(self.offsets, self.valid, {})

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
            valid=self.valid[rows],
            recordings={
                spec: RecordedSessions(
                    made.offsets, made.valid, {name: array[rows] for name, array in made.columns.items()}, made.options
                )
                for spec, made in self.recordings.items()
            },
            leak=None if self.leak is None else self.leak[rows],
            **{name: getattr(self, name)[mask] for name in ("budget", "group", "is_attack", "split", "clients")},
        )

    def of_split(self, part: str) -> TraceSet:
        """Return the sessions of one of `PARTS`."""
        return self.subset(self.split == SPLITS.index(part))
