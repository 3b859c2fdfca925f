"""Which sessions the search sees, which the certification, and which are left for unbiased figures."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from mifsim.errors import StudyError
from mifsim.study import Study
from mifsim.study.tuning import Parts
from tuning.tracedata import PARTS, TraceSet


def split(clients: Sequence[str], strata: Sequence[Hashable], shares: Parts, seed: int) -> npt.NDArray[np.int8]:
    """Deal the clients of each stratum to the parts.

    Parameters
    ----------
    clients : sequence of str
        Who ran each session.
    strata : sequence
        The population (and class under attack) of each session: each is dealt out in the study's shares.
    shares : Parts
    seed : int
        The study's.

    Returns
    -------
    ndarray of int8, shape (S,)
        Index into `PARTS` for each session; all sessions of a client are in one part.

    Notes
    -----
    The order within a stratum is that of a digest of seed and client: it depends neither on other strata nor on
    the order in which sessions are given, and no seed that a client draws from has a part in it.
    """
    members: dict[Hashable, set[str]] = defaultdict(set)
    for client, stratum in zip(clients, strata, strict=True):
        members[stratum].add(client)
    part_of: dict[str, int] = {}
    for found in members.values():
        ordered = sorted(found, key=lambda client: hashlib.sha256(f"{seed}\0part\0{client}".encode()).digest())
        first, second = cuts(shares, len(ordered))
        for position, client in enumerate(ordered):
            part_of[client] = (position >= first) + (position >= second)
    return np.array([part_of[client] for client in clients], dtype=np.int8)


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
        first, last = cuts(tuning.parts, users.count)
        # n sessions of which none is blocked have the p-value (1 - limit)^n.
        needed = math.ceil(math.log(delta) / math.log1p(-limit))
        if (there := last - first) < needed:
            least = 1 - delta ** (1 / there) if there else 1.0
            raise StudyError(
                f"{study.name}: users.{number}.sessions = {users.sessions!r}: {there:,} of them certify "
                f"(tuning.parts), and a false-positive rate of at most {limit:g} takes {needed:,} at "
                f"{tuning.confidence:g} confidence even if none is blocked; accepted: "
                f"{sessions_for(tuning.parts, needed):,} sessions of {users.name!r} or more, or a "
                f"tuning.false_positive_limit above {least:.4g}"
            )


def sessions_for(shares: Parts, certify: int) -> int:
    """Return the least number of sessions of which at least `certify` fall into the certification part."""
    sessions = max(1, math.floor(certify / shares.certify) - 2)
    while (part := cuts(shares, sessions))[1] - part[0] < certify:
        sessions += 1
    return sessions


def cuts(shares: Parts, clients: int) -> tuple[int, int]:
    """Return where a stratum of so many clients is cut: before these are the search and the certification part."""
    return round(shares.search * clients), round((shares.search + shares.certify) * clients)


def check_parts(traces: TraceSet, study: Study) -> None:
    """Refuse traces of which a part has too few sessions to be of any use.

    Raises
    ------
    StudyError
        Where an attack has no session in the search or the test part, or a workload none in some part.
    """
    for number, name in enumerate(traces.groups):
        mine = traces.group == number
        is_attack = bool(traces.is_attack[mine].any())
        for index, part in enumerate(PARTS):
            if (is_attack and part == "certify") or (mine & (traces.part == index)).any():
                continue
            key = "trials" if is_attack else "sessions"
            raise StudyError(
                f"{study.name}: {name!r}: of its {int(mine.sum())} sessions none falls into the {part} part; "
                f"give it more {key}, or the part a larger share in [tuning.parts]"
            )
