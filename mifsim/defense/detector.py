"""What stands before a model: the verdicts, the protocol that every detector speaks, and the null detector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


class Verdict(Enum):
    """What a detector says of one query (Algorithm 2)."""

    SAFE = "safe"
    UNSAFE = "unsafe"


class ModelAnswer(NamedTuple):
    """What the model answered to a query, before the response policy takes anything away.

    Attributes
    ----------
    label : int
        The class of the highest confidence.
    confidence : ndarray of float32, shape (classes,)
    """

    label: int
    confidence: npt.NDArray[np.float32]


@runtime_checkable
class Detector(Protocol):
    """The state of one session, or of one client (see `DetectorConfig.scope`).

    The server asks it before it asks the model, and shows it the model's answer afterwards. A detector is not shared
    between threads: whoever runs a session calls `check` once per query, in the order of the queries.
    """

    @property
    def count(self) -> float:
        """How much has spoken against the client so far; 0 at the beginning."""

    @property
    def limit(self) -> float:
        """The count at which the client is blocked; infinite where no count blocks it."""

    @property
    def blocked(self) -> bool:
        """Whether every further verdict is UNSAFE."""

    def check(self, image: object) -> Verdict:
        """Judge one image, and remember it if it is safe.

        A blocked detector returns UNSAFE, does not look at the image and stores nothing more.

        Raises
        ------
        InvalidImage
            The image is not one that the session can take. The state is as it was.
        """

    def observe(self, answer: ModelAnswer) -> None:
        """Take in what the model answered to the last safe image; most kinds ignore it."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that another process needs to go on; see `DetectorConfig.restore`."""


class NoDefense:
    """A detector for which every valid image is SAFE.

    It holds a session to the rules on images that every detector has (see `QueryFilter.check`), so that what counts as
    an error does not depend on the defence, and keeps nothing but the first one's shape. As a recorder it tells nothing
    beyond which queries were valid.
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
        """Return SAFE, or raise `InvalidImage`."""
        self._shape = self._admit(image, self._shape).shape
        return Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Ignore it."""

    def row(self) -> Mapping[str, Any]:
        """Return nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the session's shape, empty before its first image."""
        return {"shape": self._shape or ()}

    @classmethod
    def from_state(cls, config: object, state: Mapping[str, Any]) -> NoDefense:
        """Restore a session."""
        if set(state) != {"shape"}:
            raise ValueError(f"the state has the key shape, got {sorted(map(str, state))}")
        restored = cls()
        restored._shape = tuple(state["shape"]) or None
        return restored

    def __repr__(self) -> str:
        return "NoDefense()"
