"""The kind ``quota``: a limit on the number of queries, the simplest baseline for other detectors."""

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
    """A detector that counts valid queries, independent of their images."""

    def step(self, pixels: npt.NDArray[np.float32]) -> float:
        """Return 1: every image counts the same."""
        return 1.0


@dataclass(frozen=True)
class QuotaConfig(DetectorConfig):
    """Configuration of a query quota: the first query above the quota blocks the session or the client.

    Attributes
    ----------
    queries : int
        Number of queries that are answered; at least 1.
    scope, view
        See `DetectorConfig`; keyword-only. A view affects only which images are valid.

    Raises
    ------
    ConfigError
        If `queries` is not a whole number of at least 1.

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
        "queries": Param(1, 10_000, "queries before the block", whole=True, strictness=-1, least=1),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.queries  # untyped if it comes from a file; may be a numpy integer
        if isinstance(given, bool) or not isinstance(given, Integral) or int(given) < 1:
            raise ConfigError(f"queries = {given!r}: must be a whole number of at least 1")
        object.__setattr__(self, "queries", int(given))

    def one_by_one(self) -> bool:
        """Return true; see `DetectorConfig.one_by_one`."""
        return True

    def new_detector(self) -> Quota:
        """Return a detector in its initial state."""
        return Quota(self.queries + 1)

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Return, for each session, the first valid query above the quota."""
        before = np.concatenate([[0], np.cumsum(sessions.valid)])
        first, last = before[sessions.offsets[:-1]], before[sessions.offsets[1:]]
        over = last - first > self.queries
        # `before` counts the valid queries so far, so the block is where it reaches first + queries + 1.
        place = np.searchsorted(before, first + self.queries + 1)
        blocked_at = np.where(over, place - sessions.offsets[:-1], 0).astype(np.int64)
        return Outcome(blocked_at, np.minimum(1.0, (last - first + 1) / (self.queries + 1)))
