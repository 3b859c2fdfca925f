"""The detectors of several sessions as a batch, for kinds that judge one image in a call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mifsim.defense.detector import BatchVerdicts, Detector, Verdict
from mifsim.errors import InvalidImage


class OneByOneBatch:
    """The detectors of several sessions, which judge their images in turn; see `DetectorBatch`.

    Its use is that the clients of such sessions are advanced together.

    Parameters
    ----------
    detectors : sequence of Detector
        One for each session. They ignore the model's answers, and `check` raises no error but `InvalidImage`.
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = detectors

    def check(self, members: npt.NDArray[np.int64], images: npt.NDArray[np.float32]) -> BatchVerdicts:
        """Return the verdicts for one image of each of some sessions; see `DetectorBatch.check`."""
        valid, safe = np.ones((2, len(members)), np.bool_)
        counts = np.empty(len(members))
        errors: dict[int, InvalidImage] = {}
        for place, member in enumerate(members.tolist()):
            detector = self._detectors[member]
            try:
                safe[place] = detector.check(images[place].copy()) is Verdict.SAFE  # it may keep the array
            except InvalidImage as error:
                valid[place], errors[place] = False, error
            counts[place] = detector.count
        return BatchVerdicts(valid, safe, counts, errors)
