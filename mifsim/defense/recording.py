"""What is kept of a session's queries, so that a configuration's verdicts can be computed later without the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mifsim.defense.detector import Detector
from mifsim.defense.view import View

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Column(NamedTuple):
    """One recorded column.

    Attributes
    ----------
    dtype : str
        ``"float64"``, ``"float32"``, ``"int64"`` or ``"bool"``.
    history : int
        0: one value a query. Above: up to so many values a query, such as a similarity to each of the last images,
        the newest first.
    """

    dtype: str
    history: int = 0


class Recorder(Detector, Protocol):
    """A detector that never blocks and tells, after each valid query, what has to be kept of it.

    `row` is called once after each valid query, when the model has answered it and `observe` was called.
    """

    def row(self) -> Mapping[str, Any]:
        """Return a value for each column: a number, or an array of at most `Column.history` numbers."""


class Outcome(NamedTuple):
    """What one configuration does to each of S sessions.

    Attributes
    ----------
    blocked_at : ndarray of int64, shape (S,)
        The query, counted from 1, at which UNSAFE first came; 0 where it never did.
    nearness : ndarray of float64, shape (S,)
        How near the session came to its block, in [0, 1]: the share of the limit that one more step would have
        reached. Only its order matters.
    """

    blocked_at: Ints
    nearness: Floats


@dataclass(frozen=True, eq=False)
class RecordedSessions:
    """The recordings of S sessions, Q queries in all, one session after the other; all arrays are read-only.

    Attributes
    ----------
    offsets : ndarray of int64, shape (S + 1,)
        The queries of session s are the rows ``offsets[s]:offsets[s + 1]``, in the order in which they came.
    valid : ndarray of bool, shape (Q,)
        False for a query that was refused as no image: it counts as a query that was sent, and a detector's state
        does not change by it.
    columns : mapping of str to ndarray
        What the kind records: shape (Q,), or (Q, history). In rows of invalid queries, and where there is no such
        earlier query, floats are NaN, whole numbers 0 and flags False.
    options : mapping
        With which it was recorded (see `DetectorConfig.recording`).
    prepared : dict
        What a kind derives from the columns, kept for its next replay.
    """

    offsets: Ints
    valid: npt.NDArray[np.bool_]
    columns: Mapping[str, npt.NDArray[Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    prepared: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return self.offsets.size - 1

    @property
    def lengths(self) -> Ints:
        """Queries of each session, shape (S,)."""
        return np.diff(self.offsets)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("offsets", "valid", "columns", "options")} | {"prepared": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy in another process stays read-only too: unpickled arrays are writable by default.
        state["columns"] = {name: frozen(array) for name, array in state["columns"].items()}
        self.__dict__.update(state, offsets=frozen(state["offsets"]), valid=frozen(state["valid"]))


def frozen(values: npt.ArrayLike, kind: Any = None) -> Any:
    """Return a C-contiguous, read-only view or copy, of the given type if there is one."""
    array = np.ascontiguousarray(values, dtype=kind).view()
    array.flags.writeable = False
    return array


@dataclass(frozen=True)
class RecordingSpec:
    """What one kind needs to have recorded: plain data, which crosses to other processes without the kind's code.

    Attributes
    ----------
    kind : str
    options : tuple of (str, object)
        See `DetectorConfig.recording`; sorted.
    view : View or None
    """

    kind: str
    options: tuple[tuple[str, Any], ...] = ()
    view: View | None = None

    @classmethod
    def of(cls, kind: str, options: Mapping[str, Any], view: View | None) -> RecordingSpec:
        """Make a spec from a kind's options."""
        plain = {key: tuple(value) if isinstance(value, (list, tuple)) else value for key, value in options.items()}
        return cls(kind, tuple(sorted(plain.items())), view)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON can hold it."""
        options = {key: list(value) if isinstance(value, tuple) else value for key, value in self.options}
        return {"kind": self.kind, "options": options, "view": self.view.to_dict() if self.view else None}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RecordingSpec:
        """Return what `to_dict` made a dictionary of."""
        return cls.of(plain["kind"], plain["options"], View.parse(plain["view"]))


@dataclass(frozen=True)
class SessionWeights:
    """What sums over groups of sessions need to know of each; see `DetectorConfig.replay_swept`.

    Attributes
    ----------
    group : ndarray of int32, shape (S,)
    groups : int
        How many groups there are.
    budget : ndarray of int64, shape (S,)
        Queries that a session which is never blocked counts as.
    leak : ndarray of int64, shape (Q,) or (0,)
        What the attacker had reconstructed after each query, in fixed point; empty where that is not known.
    """

    group: npt.NDArray[np.int32]
    groups: int
    budget: Ints
    leak: Ints


class SweptSums(NamedTuple):
    """Sums over each of G groups, for all values of the swept parameters; arrays have shape (G, ...).

    Attributes
    ----------
    blocked : ndarray of int64
        Sessions blocked.
    spared : ndarray of int64
        Queries of their budgets that the blocks spared.
    withheld : ndarray of int64 or None
        By how much less leaked before the blocks than by the end of the recording; None where that is not known.
    """

    blocked: Ints
    spared: Ints
    withheld: Ints | None
