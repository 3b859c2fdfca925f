"""Which sessions the search sees, which the calibration (certification), and which are left for unbiased figures."""

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
        The client of each session.
    strata : sequence
        The population (and class under attack) of each session: each is split by the study's shares.
    shares : Parts
    seed : int
        The study's.

    Returns
    -------
    ndarray of int8, shape (S,)
        Index into `SPLITS` for each session; all sessions of a client are in one split.

    Notes
    -----
    The order within a stratum is that of a digest of seed and client: it depends neither on other strata nor on
    the order in which sessions are given, and no seed that a client draws from enters it.
    """
    members: dict[Hashable, set[str]] = defaultdict(set)
    for client, stratum in zip(clients, strata, strict=True):
        members[stratum].add(client)
    split_of: dict[str, int] = {}
    for found in members.values():
        # The word in the digest is as old as the project: another one would split every study anew.
        ordered = sorted(found, key=lambda client: hashlib.sha256(f"{seed}\0part\0{client}".encode()).digest())
        first, second = cuts(shares, len(ordered))
        for position, client in enumerate(ordered):
            split_of[client] = (position >= first) + (position >= second)
    return np.array([split_of[client] for client in clients], dtype=np.int8)


def check_reach(study: Study) -> None:
    """Refuse limits that could not be certified even if no honest session were blocked.

    Raises
    ------
    StudyError
        Saying how many sessions it takes, or which limit those can certify.
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
                f"{study.name}: users.{number}.sessions = {users.sessions!r}: {available:,} of them certify "
                f"(tuning.splits), and a false-positive rate of at most {limit:g} takes {needed:,} at "
                f"{tuning.confidence:g} confidence even if none is blocked; accepted: "
                f"{sessions_for(tuning.splits, needed):,} sessions of {users.name!r} or more, or a "
                f"tuning.false_positive_limit above {least:.4g}"
            )


def sessions_for(shares: Splits, calibration: int) -> int:
    """Return the least number of sessions of which at least `calibration` fall into the calibration split."""
    sessions = max(1, math.floor(calibration / shares.calibration) - 2)
    while (ends := cuts(shares, sessions))[1] - ends[0] < calibration:
        sessions += 1
    return sessions


def cuts(shares: Splits, clients: int) -> tuple[int, int]:
    """Return where a stratum of so many clients is cut: before these are the search and the calibration split."""
    return round(shares.search * clients), round((shares.search + shares.calibration) * clients)


def check_splits(traces: TraceSet, study: Study) -> None:
    """Refuse traces of which a split has too few sessions to be of any use.

    Raises
    ------
    StudyError
        Where an attack has no session in the search or the test split, or a workload none in some split.
    """
    for number, name in enumerate(traces.groups):
        members = traces.group == number
        is_attack = bool(traces.is_attack[members].any())
        for index, split in enumerate(SPLITS):
            if (is_attack and split == "calibration") or (members & (traces.split == index)).any():
                continue
            key = "trials" if is_attack else "sessions"
            raise StudyError(
                f"{study.name}: {name!r}: of its {int(members.sum())} sessions none falls into the {split} split; "
                f"give it more {key}, or the split a larger share in [tuning.splits]"
            )
