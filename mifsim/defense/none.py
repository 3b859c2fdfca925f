"""The kind ``none``: no defence, the reference for all other kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mifsim.defense.config import DetectorConfig
from mifsim.defense.detector import NoDefense, NoDefenseBatch
from mifsim.defense.recording import Outcome, RecordedSessions


@dataclass(frozen=True)
class NoDefenseConfig(DetectorConfig):
    """Configuration of the null detector, which never blocks. "Undefended" means this kind."""

    kind: ClassVar[str] = "none"

    def new_detector(self) -> NoDefense:
        """Return a null detector in its initial state."""
        return NoDefense()

    def batch(self, sessions: int, shape: tuple[int, ...]) -> NoDefenseBatch | None:
        """Return the null detectors of several sessions; see `DetectorConfig.batch`."""
        whole = self.view is None and type(self).new_detector is NoDefenseConfig.new_detector
        return NoDefenseBatch() if whole else None

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Return an outcome without blocks."""
        return Outcome(np.zeros(sessions.sessions, np.int64), np.zeros(sessions.sessions))
