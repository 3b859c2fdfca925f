"""Example of a detector plug-in: a query quota. Load it with ``--plugin examples/quota.py``."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mifsim import DetectorConfig, register
from mifsim.defense import CountingDetector, Outcome, Param


class Quota(CountingDetector):
    """A detector that counts queries."""

    def step(self, pixels):
        """Return 1: every image counts the same."""
        return 1


@register("detectors", "example-quota")
@dataclass(frozen=True)
class QuotaConfig(DetectorConfig):
    """Configuration of the quota: `queries` queries are answered, and the next one blocks the client."""

    queries: int

    kind = "example-quota"
    params: ClassVar = {"queries": Param(1, 2000, "queries before the block", whole=True, strictness=-1, least=1)}

    def new_detector(self):
        """Return a detector in its initial state."""
        return Quota(self.queries + 1)

    def replay(self, sessions):
        """Return the query at which each session is blocked, computed from the flags of valid queries alone."""
        valid = [np.flatnonzero(flags) + 1 for flags in np.split(sessions.valid, sessions.offsets[1:-1])]
        blocked_at = [queries[self.queries] if len(queries) > self.queries else 0 for queries in valid]
        nearness = [min(1.0, (len(queries) + 1) / (self.queries + 1)) for queries in valid]
        return Outcome(np.array(blocked_at, np.int64), np.array(nearness))
