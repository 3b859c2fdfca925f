"""Recorded sessions in memory: the arrays that the replay reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.defense import DetectorConfig
from mifsim.defense.kinds import columns_of, covers
from mifsim.defense.recording import RecordedSessions, RecordingSpec, frozen
from mifsim.defense.space import SearchSpace
from mifsim.study.splitting import SPLITS

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_DERIVED = ("client_starts", "several", "session_numbers", "one_per_client", "_client_offsets")
"""Cached values of a `TraceSet` that follow from its arrays."""


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
        for name in _DERIVED:  # their values may be those of another set
            self.__dict__.pop(name, None)
        keep("recordings", {spec: self._attached(spec, made) for spec, made in self.recordings.items()})
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

    def _attached(self, spec: RecordingSpec, made: RecordedSessions) -> RecordedSessions:
        """Return a recording with this set's arrays, its columns read-only."""
        columns = {name: frozen(array) for name, array in made.columns.items()}
        offsets = self._client_offsets if spec.scope == "client" else self.offsets
        return RecordedSessions(offsets, self.valid, columns, made.options, made.prepared)

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

    @cached_property
    def client_starts(self) -> Ints:
        """The first session of each run of consecutive sessions of one client, ascending."""
        changes = np.flatnonzero(self.clients[1:] != self.clients[:-1]) + 1
        return frozen(np.concatenate([np.zeros(min(1, self.sessions), np.int64), changes]), np.int64)  # type: ignore[no-any-return]

    @cached_property
    def several(self) -> bool:
        """Whether a client has several sessions."""
        return len(self.client_starts) < self.sessions

    @cached_property
    def session_numbers(self) -> Ints:
        """The number of each session among those of its client, from 1."""
        starts = self.client_starts
        counts = np.diff(np.append(starts, self.sessions))
        return frozen(np.arange(self.sessions) - np.repeat(starts, counts) + 1, np.int64)  # type: ignore[no-any-return]

    @cached_property
    def one_per_client(self) -> Bools:
        """Which sessions are the one of their client that a test counts, shape (S,).

        The sessions of one client are alike, so a binomial test may use only one of them. It is drawn by a digest of
        the client's id, which depends on no outcome.
        """
        starts = self.client_starts
        counts = np.diff(np.append(starts, self.sessions))
        drawn = [
            int.from_bytes(sha256(f"one session\0{client}".encode()).digest()[:8], "big") % count
            for client, count in zip(self.clients[starts].tolist(), counts.tolist(), strict=True)
        ]
        chosen = np.zeros(self.sessions, np.bool_)
        chosen[starts + np.array(drawn, np.int64)] = True
        return frozen(chosen, np.bool_)  # type: ignore[no-any-return]

    def by_client(self, config: DetectorConfig | SearchSpace) -> bool:
        """Return whether a configuration keeps its state over several sessions of a client in these traces."""
        return config.scope == "client" and self.several

    def recorded(self, config: DetectorConfig) -> RecordedSessions:
        """Return the recording from which a configuration can be replayed.

        If the configuration keeps its state over the sessions of a client (see `by_client`), the recording has the
        queries of a client in the place of those of a session.

        Raises
        ------
        ValueError
            If no recording contains the columns that the configuration needs.
        """
        return config.recorded_by(self._recorded_alone)

    def _recorded_alone(self, config: DetectorConfig) -> RecordedSessions:
        wanted = config.recording_spec()
        offsets = self.offsets
        if self.by_client(config):
            wanted = replace(wanted, scope="client")
            offsets = self._client_offsets
        # Searched configurations differ in few recordings, and the comparison of specs takes longer than some replays.
        if (known := self._chosen.get(wanted)) is not None:
            return known
        for spec, made in self.recordings.items():
            if config.scope == "client" and not self.several:
                spec = replace(spec, scope="session")  # each client has one session, so both scopes are the same
            if covers(spec, wanted):
                self._chosen[wanted] = made
                return made
        if columns_of(wanted):
            available = ", ".join(f"{spec.kind} {dict(spec.options)}" for spec in self.recordings) or "none"
            scope = " over the sessions of a client" if wanted.scope == "client" else ""
            raise ValueError(
                f"no recording fits {config}: requires {dict(wanted.options)}{scope} (available: {available})"
            )
        return RecordedSessions(offsets, self.valid, {})

    @cached_property
    def _client_offsets(self) -> Ints:
        return frozen(np.append(self.offsets[self.client_starts], self.offsets[-1]), np.int64)  # type: ignore[no-any-return]

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
