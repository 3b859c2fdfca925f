"""What stands before a model: the verdicts, the protocol that every defence speaks, and the open door."""

from __future__ import annotations

from enum import Enum
from typing import Protocol, runtime_checkable


class Verdict(Enum):
    """What a guard says of one query (Algorithm 2)."""

    SAFE = "safe"
    UNSAFE = "unsafe"


class InvalidImage(ValueError):
    """What was submitted is not an image that a session can take; the session's state is as it was before."""


@runtime_checkable
class Detector(Protocol):
    """One session's defence. The server makes one per session, and asks it before it asks the model.

    A guard is not shared between threads: whoever runs a session calls `check` once per query, in the order
    of the queries.
    """

    @property
    def count(self) -> int:
        """Suspicious queries so far."""

    @property
    def blocked(self) -> bool:
        """Whether the session has ended: every further verdict is UNSAFE."""

    def check(self, image: object) -> Verdict:
        """Judge one image, and remember it if it is safe.

        Raises
        ------
        InvalidImage
            The image is not one that the session can take.
        """


class NoDefense:
    """No defence: every valid image is SAFE. What the others are compared with.

    It holds a session to the rules on images that a filter has (see `QueryFilter.check`), so that what
    counts as an error does not depend on the defence, and keeps nothing but the first one's shape.
    """

    __slots__ = ("_admit", "_shape")

    count = 0
    blocked = False

    def __init__(self) -> None:
        from mifsim.defense.images import admit

        self._admit = admit
        self._shape: tuple[int, ...] | None = None

    def check(self, image: object) -> Verdict:
        """Return SAFE, or raise `InvalidImage`."""
        self._shape = self._admit(image, self._shape).shape
        return Verdict.SAFE

    def __repr__(self) -> str:
        return "Open()"
