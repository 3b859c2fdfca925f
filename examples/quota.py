"""A detector of one's own: at most so many queries. Give it to any command with ``--plugin examples/quota.py``."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mifsim import DetectorConfig, register
from mifsim.defense import CountingDetector, Outcome, Param


class Quota(CountingDetector):
    """Counts queries."""

    def step(self, pixels):
        """Return 1, whatever the image."""
        return 1


@register("detectors", "example-quota")
@dataclass(frozen=True)
class QuotaConfig(DetectorConfig):
    """A query quota: the query after `queries` answered ones blocks the client."""

    queries: int

    kind = "example-quota"
    params: ClassVar = {"queries": Param(1, 2000, "queries are answered", whole=True, strictness=-1, least=1)}

    def new_detector(self):
        """Return a new state."""
        return Quota(self.queries + 1)

    def replay(self, sessions):
        """Find the first valid query above the quota: which queries were valid is all that it takes."""
        valid = [np.flatnonzero(part) + 1 for part in np.split(sessions.valid, sessions.offsets[1:-1])]
        blocked_at = [queries[self.queries] if len(queries) > self.queries else 0 for queries in valid]
        nearness = [min(1.0, (len(queries) + 1) / (self.queries + 1)) for queries in valid]
        return Outcome(np.array(blocked_at, np.int64), np.array(nearness))
