"""Exact replay of the kind ``evidence`` on recorded sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from mifsim.defense.evidence import count_kernels
from mifsim.defense.recording import Outcome, RecordedSessions, frozen

if TYPE_CHECKING:
    from mifsim.defense.evidence.config import EvidenceConfig
    from mifsim.defense.evidence.flags import Flag


def follow(sessions: RecordedSessions, config: EvidenceConfig) -> Outcome:
    """Return the outcome of each session.

    Raises
    ------
    ValueError
        If the recording does not contain the features that the configuration needs.
    """
    flags = config.enabled()
    values = np.stack([flag_values(sessions, flag.name, config.k, config.memory) for flag in flags])
    blocked_at, peaks = np.empty(sessions.sessions, np.int64), np.empty(sessions.sessions)
    radii, above, leaks, limits = config.rules()
    count_kernels.follow(
        sessions.offsets, sessions.valid, frozen(values), radii, above, leaks, limits, blocked_at, peaks
    )
    return Outcome(blocked_at, np.minimum(1.0, peaks))


def greatest_counts(sessions: RecordedSessions, flag: Flag, k: int, memory: int) -> npt.NDArray[np.float64]:
    """Return the greatest count of one flag in each session, shape (S,); its limit is not used."""
    values = flag_values(sessions, flag.name, k, memory)
    found: npt.NDArray[np.float64] = count_kernels.greatest_counts(
        sessions.offsets, sessions.valid, values, flag.radius, flag.above, flag.leak
    )
    return found


def flag_values(sessions: RecordedSessions, name: str, k: int, memory: int) -> npt.NDArray[np.float32]:
    """Return the recorded feature of a flag for each query, shape (Q,), read-only.

    Raises
    ------
    ValueError
        If the recording does not contain it.
    """
    if name == "queries":
        if name not in sessions.prepared:
            sessions.prepared[name] = frozen(np.ones(len(sessions.valid), np.float32))
        return cast(npt.NDArray[np.float32], sessions.prepared[name])
    column = {"neighbours": f"neighbours_{memory}_{k}", "repeats": f"repeats_{memory}"}.get(name, name)
    if column not in sessions.columns:
        raise ValueError(
            f"k = {k}, memory = {memory}: not in the recording, which contains {', '.join(sessions.columns)}"
        )
    return cast(npt.NDArray[np.float32], sessions.columns[column])
