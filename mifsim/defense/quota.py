"""A query quota: the baseline that every other detector must justify itself against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mifsim.defense.config import DetectorConfig
from mifsim.defense.counting import CountingDetector
from mifsim.defense.param import Param
from mifsim.defense.recording import Outcome, RecordedSessions
from mifsim.errors import ConfigError


class Quota(CountingDetector):
    """Counts queries, whatever they show."""

    def step(self, pixels: npt.NDArray[np.float32]) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class QuotaConfig(DetectorConfig):
    """At most so many queries: the one after blocks the session, or the client.

    Attributes
    ----------
    queries : int
        At least 1: how many are answered.
    scope, view
        See `DetectorConfig`; as keywords only. A view changes nothing but which images are refused.

    Examples
    --------
    >>> import numpy as np
    >>> detector = QuotaConfig(queries=2).detector()
    >>> [detector.check(np.zeros((8, 8))).name for _ in range(4)]
    ['SAFE', 'SAFE', 'UNSAFE', 'UNSAFE']
    """

    queries: int

    kind: ClassVar[str] = "quota"
    params: ClassVar[Mapping[str, Param]] = {
        "queries": Param(1, 10_000, "queries are answered", whole=True, strictness=-1, least=1),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.queries  # whatever came from a file, or numpy's
        if isinstance(given, bool) or not isinstance(given, Integral) or int(given) < 1:
            raise ConfigError(f"queries = {given!r}: must be a whole number of at least 1")
        object.__setattr__(self, "queries", int(given))

    def new_detector(self) -> Quota:
        """Return a new state."""
        return Quota(self.queries + 1)

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Find the first valid query above the quota of each session."""
        before = np.concatenate([[0], np.cumsum(sessions.valid)])
        first, last = before[sessions.offsets[:-1]], before[sessions.offsets[1:]]
        over = last - first > self.queries
        # `before` rises by one at each valid query: the query after which it is first + queries + 1.
        place = np.searchsorted(before, first + self.queries + 1)
        blocked_at = np.where(over, place - sessions.offsets[:-1], 0).astype(np.int64)
        return Outcome(blocked_at, np.minimum(1.0, (last - first + 1) / (self.queries + 1)))
