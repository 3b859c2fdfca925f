"""Interface of all detectors: verdicts, the detector protocol, and the null detector."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mifsim.errors import InvalidImage


class Verdict(Enum):
    """Result of a detector for one query (Algorithm 2 of the paper)."""

    SAFE = "safe"
    UNSAFE = "unsafe"


class ModelAnswer(NamedTuple):
    """The model's full output for one query, before the response policy restricts it.

    Attributes
    ----------
    label : int
        Class with the highest confidence.
    confidence : ndarray of float32, shape (classes,)
        Confidence of each class, in [0, 1].
    """

    label: int
    confidence: npt.NDArray[np.float32]


@runtime_checkable
class Detector(Protocol):
    """A stateful detector for one session or one client (see `DetectorConfig.scope`).

    For each query, in order, the server calls `check`. If the verdict is SAFE, it queries the model and passes the
    answer to `observe`. A detector is not thread-safe: all calls must come from one thread at a time.
    """

    @property
    def count(self) -> float:
        """Evidence against the client so far; 0 at the beginning."""

    @property
    def limit(self) -> float:
        """Count at which the client is blocked; infinite if the detector does not block by a count."""

    @property
    def blocked(self) -> bool:
        """Whether all further verdicts are UNSAFE."""

    def check(self, image: object) -> Verdict:
        """Return the verdict for one image, and update the state.

        A blocked detector returns UNSAFE without inspecting the image, and its state does not change any more.

        Raises
        ------
        InvalidImage
            If the image is not valid in this session. The state does not change.
        """

    def observe(self, answer: ModelAnswer) -> None:
        """Process the model's answer to the last safe image; most kinds ignore it."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with which `DetectorConfig.restore` continues in another process."""


@runtime_checkable
class DurableDetector(Detector, Protocol):
    """A detector that a server can continue without its images, and whose last query it can undo.

    All kinds that come with mifsim and all subclasses of `CountingDetector` are of this type. `DetectorConfig.resume`
    creates a detector from its counts.
    """

    def durable_counts(self) -> dict[str, Any]:
        """Return the part of the state that must never be lost, as plain JSON values: all counts, and no images.

        A server writes it to a durable place before it asks the model. It is a few numbers, whatever the number and the
        size of the images.
        """

    def resume_counts(self, counts: Mapping[str, Any]) -> None:
        """Replace the counts of a detector in its initial state by those that `durable_counts` returned.

        Raises
        ------
        ValueError
            If they are incomplete or of another configuration.
        """

    def savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next `check`, and what follows it, to the bit.

        It costs a copy of what one image overwrites, not of the whole state. Several savepoints are undone in reverse
        order.
        """


class BatchVerdicts(NamedTuple):
    """Result of a `DetectorBatch` for one image of each of n sessions.

    Attributes
    ----------
    valid : ndarray of bool, shape (n,)
        Whether the image is valid; if not, the session's state did not change.
    safe : ndarray of bool, shape (n,)
        Whether the verdict of a valid image is SAFE.
    counts : ndarray of float64, shape (n,)
        `Detector.count` after the image.
    errors : mapping of int to InvalidImage
        Why an image is not valid, by its place. May lack those that are invalid for every kind.
    """

    valid: npt.NDArray[np.bool_]
    safe: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.float64]
    errors: Mapping[int, InvalidImage] = MappingProxyType({})


class DetectorBatch(Protocol):
    """The detectors of several sessions, which judge an image of each in one call.

    Each session is judged as by a `Detector` of its own, to the bit. Only kinds that ignore the model's answers have
    batches.
    """

    def check(self, members: npt.NDArray[np.int64], images: npt.NDArray[np.float32]) -> BatchVerdicts:
        """Return the verdicts for one image of each of some sessions, and update their states.

        Parameters
        ----------
        members : ndarray of int64, shape (n,)
            The numbers of the sessions, each at most once. None of them is blocked.
        images : ndarray of float32, shape (n, H, W) or (n, H, W, C), C-contiguous
            An image of each.
        """


def expect_keys(counts: Mapping[str, Any], *names: str) -> None:
    """Raise a ValueError if the keys of saved counts are not these names."""
    if set(counts) != set(names):
        raise ValueError(f"keys of the counts: {sorted(map(str, counts))}; expected {', '.join(names) or 'none'}")


class NoDefense:
    """The null detector: every valid image is SAFE.

    It validates images as all detectors do (see `QueryFilter.check`), so that the set of invalid queries does not
    depend on the detector. Its state is the shape of the first image. It is also a recorder without columns.
    """

    __slots__ = ("_admit", "_shape")

    count = 0.0
    limit = math.inf
    blocked = False

    def __init__(self) -> None:
        from mifsim.defense.images import admit

        self._admit = admit
        self._shape: tuple[int, ...] | None = None

    def check(self, image: object) -> Verdict:
        """Return SAFE for a valid image, or raise `InvalidImage`."""
        self._shape = self._admit(image, self._shape).shape
        return Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Ignore the model's answer."""

    def row(self) -> Mapping[str, Any]:
        """Return an empty row: the null detector records no columns."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the shape of the session's images, empty before the first one."""
        return {"shape": self._shape or ()}

    def durable_counts(self) -> dict[str, Any]:
        """Return an empty mapping: it counts nothing."""
        return {}

    def resume_counts(self, counts: Mapping[str, Any]) -> None:
        """Check that the counts are empty."""
        expect_keys(counts)

    def savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next check; see `DurableDetector`."""
        shape = self._shape

        def undo() -> None:
            self._shape = shape

        return undo

    @classmethod
    def from_state(cls, config: object, state: Mapping[str, Any]) -> NoDefense:
        """Return a detector that continues from a state; see `DetectorConfig.restore`."""
        if set(state) != {"shape"}:
            raise ValueError(f"keys of the state: {sorted(map(str, state))}; expected shape")
        restored = cls()
        restored._shape = tuple(state["shape"]) or None
        return restored

    def __repr__(self) -> str:
        return "NoDefense()"


class NoDefenseBatch:
    """The null detectors of several sessions; see `DetectorBatch`."""

    def check(self, members: npt.NDArray[np.int64], images: npt.NDArray[np.float32]) -> BatchVerdicts:
        """Return SAFE for all valid images."""
        from mifsim.defense.images import inside_each

        return BatchVerdicts(inside_each(images), np.ones(len(members), np.bool_), np.zeros(len(members)))
