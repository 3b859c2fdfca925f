"""Recordings of sessions, from which the verdicts of a configuration can be computed without the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mifsim.defense.detector import Detector
from mifsim.defense.view import View

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Column(NamedTuple):
    """Type of a recorded column.

    Attributes
    ----------
    dtype : str
        ``"float64"``, ``"float32"``, ``"int64"`` or ``"bool"``.
    history : int
        0 for one value per query. Otherwise the maximum number of values per query, such as the similarities to the
        previous images, the newest first.
    """

    dtype: str
    history: int = 0


class Recorder(Detector, Protocol):
    """A detector that never blocks, and returns the values to record after each valid query.

    `row` is called once after each valid query, after `observe`.
    """

    def row(self) -> Mapping[str, Any]:
        """Return the value of each column: a number, or an array of at most `Column.history` numbers."""


class Outcome(NamedTuple):
    """Result of one configuration for each of S sessions.

    Attributes
    ----------
    blocked_at : ndarray of int64, shape (S,)
        Number of the first UNSAFE query, from 1; 0 if there is none.
    nearness : ndarray of float64, shape (S,)
        Closeness to a block, in [0, 1]: the share of the limit that the count would reach with one more step. Only the
        order of these values is used.
    """

    blocked_at: Ints
    nearness: Floats


@dataclass(frozen=True, eq=False)
class RecordedSessions:
    """The recordings of S sessions with Q queries in total; all arrays are read-only.

    Attributes
    ----------
    offsets : ndarray of int64, shape (S + 1,)
        The queries of session s are the rows ``offsets[s]:offsets[s + 1]``, in chronological order.
    valid : ndarray of bool, shape (Q,)
        False for queries with an invalid image. They count as sent queries, but do not change a detector's state.
    columns : mapping of str to ndarray
        Recorded columns of the kind, of shape (Q,) or (Q, history). In rows of invalid queries, and for previous
        queries that do not exist, floats are NaN, integers 0 and booleans False.
    options : mapping
        Options of the recorder (see `DetectorConfig.recording`).
    prepared : dict
        Cache of data that a kind derives from the columns for its replays.
    members : tuple of RecordedSessions
        Recordings of the same sessions for each member of a composed detector; otherwise empty.
    """

    offsets: Ints
    valid: npt.NDArray[np.bool_]
    columns: Mapping[str, npt.NDArray[Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    prepared: dict[str, Any] = field(default_factory=dict, repr=False)
    members: tuple[RecordedSessions, ...] = ()

    @property
    def sessions(self) -> int:
        """Number of sessions."""
        return self.offsets.size - 1

    @property
    def lengths(self) -> Ints:
        """Number of queries of each session, shape (S,)."""
        return np.diff(self.offsets)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("offsets", "valid", "columns", "options", "members")} | {
            "prepared": {}
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Unpickled arrays are writable by default; copies in other processes must be read-only too.
        state["columns"] = {name: frozen(array) for name, array in state["columns"].items()}
        self.__dict__.update(state, offsets=frozen(state["offsets"]), valid=frozen(state["valid"]))


def frozen(values: npt.ArrayLike, kind: Any = None) -> Any:
    """Return a C-contiguous, read-only view or copy of an array, converted to the dtype `kind` unless it is None."""
    array = np.ascontiguousarray(values, dtype=kind).view()
    array.flags.writeable = False
    return array


@dataclass(frozen=True)
class RecordingSpec:
    """The recording that a kind needs, as plain data that can be sent to processes without the kind's code.

    Attributes
    ----------
    kind : str
        Name of the kind of detector.
    options : tuple of (str, object)
        Options of the recorder, sorted by name; see `DetectorConfig.recording`.
    view : View or None
        Reduction of the images before they are compared.
    scope : {"session", "client"}
        Whether the recorder starts anew in each session of a client. It matters only for clients with several sessions.
    """

    kind: str
    options: tuple[tuple[str, Any], ...] = ()
    view: View | None = None
    scope: Literal["session", "client"] = "session"

    @classmethod
    def of(cls, kind: str, options: Mapping[str, Any], view: View | None) -> RecordingSpec:
        """Create a spec from a mapping of options; lists become tuples."""
        plain = {key: tuple(value) if isinstance(value, (list, tuple)) else value for key, value in options.items()}
        return cls(kind, tuple(sorted(plain.items())), view)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain values for JSON."""
        options = {key: list(value) if isinstance(value, tuple) else value for key, value in self.options}
        plain = {"kind": self.kind, "options": options, "view": self.view.to_dict() if self.view else None}
        return plain if self.scope == "session" else {**plain, "scope": self.scope}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RecordingSpec:
        """Create a spec from the result of `to_dict`."""
        spec = cls.of(plain["kind"], plain["options"], View.parse(plain["view"]))
        return replace(spec, scope=plain.get("scope", "session"))


class HonestSessions(NamedTuple):
    """The honest sessions of a search, for `DetectorConfig.from_search`.

    Attributes
    ----------
    sessions : RecordedSessions
        Recordings of S sessions.
    workload : ndarray of int32, shape (S,)
        Workload of each session, from 0 to W - 1.
    limits : tuple of float
        False-positive limit of each of W workloads, in (0, 1).
    """

    sessions: RecordedSessions
    workload: npt.NDArray[np.int32]
    limits: tuple[float, ...]


@dataclass(frozen=True)
class SessionWeights:
    """Group, query budget and leakage of each session, for `DetectorConfig.replay_swept`.

    Attributes
    ----------
    group : ndarray of int32, shape (S,)
        Group of each session, from 0 to ``groups - 1``.
    groups : int
        Number of groups.
    budget : ndarray of int64, shape (S,)
        Number of queries to block that is counted for a session that is never blocked.
    leak : ndarray of int64, shape (Q,) or (0,)
        Leakage after each query, as a fixed-point number; empty if it is unknown.
    """

    group: npt.NDArray[np.int32]
    groups: int
    budget: Ints
    leak: Ints


class SweptSums(NamedTuple):
    """Sums over each of G groups of sessions, for all values of the swept parameters; arrays have shape (G, ...).

    Attributes
    ----------
    blocked : ndarray of int64
        Number of sessions blocked.
    spared : ndarray of int64
        Total number of queries by which the sessions were blocked before their budgets.
    withheld : ndarray of int64 or None
        Total leakage that the blocks prevented, in the fixed point of `SessionWeights.leak`; None if it is unknown.
    """

    blocked: Ints
    spared: Ints
    withheld: Ints | None
