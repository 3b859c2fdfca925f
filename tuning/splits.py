"""Assignment of clients to the search, calibration and test splits.

The search uses the first split, the certification the second; the third gives unbiased figures.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from mifsim.errors import StudyError
from mifsim.study import Study
from mifsim.study.tuning import Splits
from tuning.tracedata import SPLITS, TraceSet


def split_clients(
    clients: Sequence[str], strata: Sequence[Hashable], shares: Splits, seed: int
) -> npt.NDArray[np.int8]:
    """Assign the clients of each stratum to the splits.

    Parameters
    ----------
    clients : sequence of str
        The client of each of S sessions.
    strata : sequence
        The stratum of each session: its population (and the class under attack). Each stratum is split by `shares`.
    shares : Splits
        The study's shares of the splits.
    seed : int
        The study's seed.

    Returns
    -------
    ndarray of int8, shape (S,)
        Index into `SPLITS` for each session. All sessions of a client are in one split.

    Notes
    -----
    Within a stratum, clients are ordered by a digest of seed and client id. The order is independent of other strata,
    of the order of the sessions, and of the seeds from which clients draw.
    """
    members: dict[Hashable, set[str]] = defaultdict(set)
    for client, stratum in zip(clients, strata, strict=True):
        members[stratum].add(client)
    split_of: dict[str, int] = {}
    for found in members.values():
        # Keep the word "part" in the digest: another word would split every existing study differently.
        ordered = sorted(found, key=lambda client: hashlib.sha256(f"{seed}\0part\0{client}".encode()).digest())
        first, second = cuts(shares, len(ordered))
        for position, client in enumerate(ordered):
            split_of[client] = (position >= first) + (position >= second)
    return np.array([split_of[client] for client in clients], dtype=np.int8)


def check_reach(study: Study) -> None:
    """Raise an error if a false-positive limit cannot be certified even if no honest session is blocked.

    Raises
    ------
    StudyError
        States how many sessions are needed, and which limit the given sessions can certify.
    """
    tuning = study.tuning
    delta = 1 - tuning.confidence
    for number, users in enumerate(study.users):
        limit = tuning.limit(users.name)
        first, last = cuts(tuning.splits, users.count)
        # n sessions of which none is blocked have the p-value (1 - limit)^n.
        needed = math.ceil(math.log(delta) / math.log1p(-limit))
        if (available := last - first) < needed:
            least = 1 - delta ** (1 / available) if available else 1.0
            raise StudyError(
                f"{study.name}: users.{number}.sessions = {users.sessions!r}: {available:,} of them are in the "
                f"calibration split (tuning.splits), but a false-positive rate of at most {limit:g} at "
                f"{tuning.confidence:g} confidence needs {needed:,}, even if none is blocked; accepted: "
                f"{sessions_for(tuning.splits, needed):,} sessions of {users.name!r} or more, or a "
                f"tuning.false_positive_limit above {least:.4g}"
            )


def sessions_for(shares: Splits, calibration: int) -> int:
    """Return the least number of sessions that puts at least `calibration` of them into the calibration split."""
    sessions = max(1, math.floor(calibration / shares.calibration) - 2)
    while (ends := cuts(shares, sessions))[1] - ends[0] < calibration:
        sessions += 1
    return sessions


def cuts(shares: Splits, clients: int) -> tuple[int, int]:
    """Return the positions at which a stratum of `clients` clients is cut: the ends of search and calibration split."""
    return round(shares.search * clients), round((shares.search + shares.calibration) * clients)


def check_splits(traces: TraceSet, study: Study) -> None:
    """Raise an error if a split lacks sessions of a group that it needs.

    Raises
    ------
    StudyError
        If an attack has no session in the search or the test split, or a workload has none in one of the splits.
    """
    for number, name in enumerate(traces.groups):
        members = traces.group == number
        is_attack = bool(traces.is_attack[members].any())
        for index, split in enumerate(SPLITS):
            if (is_attack and split == "calibration") or (members & (traces.split == index)).any():
                continue
            key = "trials" if is_attack else "sessions"
            raise StudyError(
                f"{study.name}: {name!r}: none of its {int(members.sum())} sessions is in the {split} split; "
                f"increase its {key}, or the share tuning.splits.{split}"
            )


def session_counts(traces: TraceSet) -> dict[str, dict[str, int]]:
    """Return the number of sessions of each group in each split."""
    return {
        split: {
            name: int(((traces.group == number) & (traces.split == index)).sum())
            for number, name in enumerate(traces.groups)
        }
        for index, split in enumerate(SPLITS)
    }
