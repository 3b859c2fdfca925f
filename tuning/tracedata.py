"""Recorded sessions in memory: the arrays that the replay reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.defense import DetectorConfig
from mifsim.defense.kinds import columns_of, covers
from mifsim.defense.recording import RecordedSessions, RecordingSpec, frozen
from mifsim.study.splitting import SPLITS

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TraceSet:
    """Traces of S sessions with Q queries in total, one session after the other.

    All arrays are read-only: traces are shared between processes and threads, `prepared` holds values derived from
    them, and compiled kernels are not compiled again for writable arrays.

    Attributes
    ----------
    offsets : ndarray of int64, shape (S + 1,)
        The queries of session s are the rows ``offsets[s]:offsets[s + 1]``, in the order of arrival.
    valid : ndarray of bool, shape (Q,)
        Whether each query was a valid image. An invalid query counts as a query, but does not change the state of a
        detector.
    recordings : mapping of RecordingSpec to RecordedSessions
        The recorders' columns for each spec, all with the same `offsets` and `valid`. Empty if no kind needs any.
    budget : ndarray of int64, shape (S,)
        Query budget of each session; at least 1, and at least its number of queries.
    group : ndarray of int32, shape (S,)
        Index of each session's group in `groups`.
    groups : tuple of str
        Names of the populations: attacks and honest workloads.
    is_attack : ndarray of bool, shape (S,)
        Whether each session is of an attack; equal for all sessions of a group.
    split : ndarray of int8, shape (S,)
        Index of each session's split in `SPLITS`.
    clients : ndarray of str, shape (S,)
        Client id of each session. All sessions of a client are in one split.
    leak : ndarray of float64, shape (Q,), optional
        Leakage of the attacker's reconstruction after each query, in [0, 1]; higher is worse. An unanswered query has
        the leakage of the query before it. Values of honest sessions are not read.
    prepared : dict
        Cache of arrays that are derived from the traces.

    Raises
    ------
    ValueError
        If shapes, indices, budgets, groups or splits are inconsistent.
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
    _chosen: dict[RecordingSpec, RecordedSessions] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        def keep(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        kinds = {"offsets": np.int64, "valid": np.bool_, "budget": np.int64, "group": np.int32,
                 "is_attack": np.bool_, "split": np.int8, "clients": np.str_}  # fmt: skip
        for name, kind in kinds.items():
            keep(name, frozen(getattr(self, name), kind))
        keep("recordings", {spec: self._attached(made) for spec, made in self.recordings.items()})
        keep("_chosen", {})  # its values would be those before unpickling
        if self.leak is not None:
            keep("leak", frozen(self.leak, np.float64))
        self._check()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Unpickled arrays are writable by default; a copy in another process must be read-only, too.
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
            raise ValueError(f"offsets must increase from 0 to the number of queries, {queries}")
        for name in ("budget", "group", "is_attack", "split", "clients"):
            if getattr(self, name).shape != (sessions,):
                raise ValueError(
                    f"{name} has shape {getattr(self, name).shape}, there are {sessions} sessions "
                    f"(expected ({sessions},))"
                )
        for spec, made in self.recordings.items():
            wrong = [name for name, array in made.columns.items() if array.ndim not in (1, 2) or len(array) != queries]
            if wrong:
                raise ValueError(f"{spec.kind}: column {wrong[0]!r} must have a row for each of {queries} queries")
        if self.leak is not None and self.leak.shape != (queries,):
            raise ValueError(f"leak has shape {self.leak.shape}, there are {queries} queries (expected ({queries},))")
        if (self.budget < np.maximum(np.diff(self.offsets), 1)).any():
            raise ValueError("a session has more queries than its budget, or a budget below 1")
        if sessions and not (self.group.min() >= 0 and self.group.max() < len(self.groups)):
            raise ValueError(f"group must contain indices of the {len(self.groups)} groups")
        if sessions and not (self.split.min() >= 0 and self.split.max() < len(SPLITS)):
            raise ValueError(f"split must contain indices of {SPLITS}")
        attacks = set(self.group[self.is_attack].tolist())
        if mixed := attacks & set(self.group[~self.is_attack].tolist()):
            raise ValueError(f"group {self.groups[min(mixed)]!r} contains both attack sessions and honest sessions")
        pairs = np.unique(np.stack([np.unique(self.clients, return_inverse=True)[1], self.split]), axis=1)
        if (twice := np.flatnonzero(np.diff(pairs[0]) == 0)).size:
            client = np.unique(self.clients)[pairs[0, twice[0]]]
            raise ValueError(f"client {str(client)!r} has sessions in more than one split")

    @property
    def sessions(self) -> int:
        """Number of sessions."""
        return self.offsets.size - 1

    def recorded(self, config: DetectorConfig) -> RecordedSessions:
        """Return the recording from which a configuration can be replayed.

        Raises
        ------
        ValueError
            If no recording contains the columns that the configuration needs.
        """
        return config.recorded_by(self._recorded_alone)

    def _recorded_alone(self, config: DetectorConfig) -> RecordedSessions:
        wanted = config.recording_spec()
        # Searched configurations differ in few recordings, and the comparison of specs takes longer than some replays.
        if (known := self._chosen.get(wanted)) is not None:
            return known
        for spec, made in self.recordings.items():
            if covers(spec, wanted):
                self._chosen[wanted] = made
                return made
        if columns_of(wanted):
            available = ", ".join(f"{spec.kind} {dict(spec.options)}" for spec in self.recordings) or "none"
            raise ValueError(f"no recording fits {config}: requires {dict(wanted.options)} (available: {available})")
        return RecordedSessions(self.offsets, self.valid, {})

    @property
    def attack_groups(self) -> tuple[int, ...]:
        """Indices of the attacks that have sessions."""
        return tuple(np.unique(self.group[self.is_attack]).tolist())

    @property
    def honest_groups(self) -> tuple[int, ...]:
        """Indices of the honest workloads that have sessions."""
        return tuple(np.unique(self.group[~self.is_attack]).tolist())

    def subset(self, sessions: npt.ArrayLike) -> TraceSet:
        """Return the traces of selected sessions; groups keep their indices, even if they have no session left.

        Parameters
        ----------
        sessions : array_like of bool, shape (S,)
            Whether each session is selected.

        Raises
        ------
        ValueError
            If `sessions` is not a boolean mask of that shape.
        """
        mask = np.asarray(sessions)
        if mask.dtype != np.bool_ or mask.shape != (self.sessions,):
            raise ValueError(
                f"sessions must be a mask of {self.sessions} bools, got {mask.dtype} of shape {mask.shape}"
            )
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

    def of_split(self, split: str) -> TraceSet:
        """Return the sessions of one of `SPLITS`."""
        return self.subset(self.split == SPLITS.index(split))
