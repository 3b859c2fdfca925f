"""What recorders have in common."""

from __future__ import annotations

import math
from typing import Any

from mifsim.defense.detector import ModelAnswer


class NonBlocking:
    """Base class of recorders: it never blocks a session, looks at images alone, and cannot be saved.

    A subclass defines ``check`` and, as a `Recorder`, ``row``; one that uses the model's answers overrides `observe`.

    Attributes
    ----------
    count, limit, blocked : float, float, bool
        Always 0, infinity and False.
    """

    __slots__ = ()

    count = 0.0
    limit = math.inf
    blocked = False

    def observe(self, answer: ModelAnswer) -> None:
        """Ignore the model's answer."""

    def state_dict(self) -> dict[str, Any]:
        """Raise NotImplementedError: a recorder cannot be moved to another process."""
        raise NotImplementedError("the state of a recorder cannot be saved; record each session in one process")
