"""No defence: the kind ``none``, which all others are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mifsim.defense.config import DetectorConfig
from mifsim.defense.detector import NoDefense
from mifsim.defense.recording import Outcome, RecordedSessions


@dataclass(frozen=True)
class NoDefenseConfig(DetectorConfig):
    """The null detector: nothing is ever blocked. "Undefended" means this kind and nothing else."""

    kind: ClassVar[str] = "none"

    def new_detector(self) -> NoDefense:
        """Return a new state."""
        return NoDefense()

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Return that nobody was blocked."""
        return Outcome(np.zeros(sessions.sessions, np.int64), np.zeros(sessions.sessions))
