"""Checks that the splits of a calibration have enough sessions."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from mifsim.data.base import DataSet
from mifsim.errors import StudyError
from mifsim.study import Study
from mifsim.study.splitting import SPLITS, cuts, split_images
from mifsim.study.tuning import Splits
from tuning.tracedata import TraceSet

logger = logging.getLogger(__name__)


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


def check_split_sizes(study: Study) -> None:
    """Raise an error if a split will have no client of an attack or a workload that it needs.

    Raises
    ------
    StudyError
        If the trials of an attack leave the search or the test split without a client of a class under attack, or the
        sessions of a workload leave a split without one. The message states what is accepted.
    """
    keyed = [
        *(("attacks", n, item.name, "trials", item.trials) for n, item in enumerate(study.attacks)),
        *(("users", n, item.name, "sessions", item.count) for n, item in enumerate(study.users)),
    ]
    for table, number, name, key, clients in keyed:
        needed = [split for split in SPLITS if table == "users" or split != "calibration"]
        missing = _without_clients(study.tuning.splits, clients, needed)
        if not missing:
            continue
        least = clients + 1
        while _without_clients(study.tuning.splits, least, needed):
            least += 1
        client = "client for each class under attack" if table == "attacks" else "client"
        raise StudyError(
            f"{study.name}: {table}.{number}.{key} = {clients}: {name!r} has no {client} in the {missing[0]} split; "
            f"accepted: {least} or more, or a greater tuning.splits.{missing[0]}"
        )


def _without_clients(shares: Splits, clients: int, needed: Sequence[str]) -> list[str]:
    first, second = cuts(shares, clients)
    sizes = dict(zip(SPLITS, (first, second - first, clients - second), strict=True))
    return [split for split in needed if not sizes[split]]


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


def warn_of_repeats(traces: TraceSet, study: Study, images: Mapping[str, int]) -> None:
    """Log a warning that names the workloads with sessions longer than the number of images from which they are drawn.

    A detector may then block a session because the simulation has no further image, which real users would have.

    Parameters
    ----------
    traces : TraceSet
    study : Study
    images : mapping of str to int
        Number of different images by workload; see `calibration_images`.
    """
    lengths = np.diff(traces.offsets)
    found = []
    for users in study.users:
        longest = int(lengths[traces.group == traces.groups.index(users.name)].max(initial=0))
        if users.log() is None and longest > images[users.name]:
            found.append(f"{users.name} ({longest:,} queries, {images[users.name]:,} images)")
    if found:
        logger.warning(
            "sessions of these workloads may send an image again, which a detector may block, because they are longer "
            "than the number of images from which they are drawn: %s; use more images or shorter sessions",
            ", ".join(found),
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


def with_own_images(study: Study) -> frozenset[str]:
    """Return the workloads whose sessions in one split show no image of another split.

    Clients of a log may have sent the same images, in whichever split they are.
    """
    if not study.tuning.separate_images:
        return frozenset()
    return frozenset(users.name for users in study.users if users.log() is None)


def calibration_images(study: Study, data: DataSet) -> dict[str, int]:
    """Return the number of different images from which each workload's sessions in the calibration split are drawn.

    For a log, it is the number of different images of all its clients.

    Raises
    ------
    StudyError
        If each split needs images of its own, and a class has fewer images than there are splits.
    """
    users_pool = data.subset("users")
    shared = len(users_pool)
    if study.tuning.separate_images and any(users.log() is None for users in study.users):
        counts = np.bincount(users_pool.labels, minlength=len(data.class_names))
        if (least := int(counts.min())) < len(SPLITS):
            raise StudyError(
                f"{study.name}: tuning.separate_images = true: each split needs images of its own of each class, but "
                f"{data.name} has {least} images of {data.class_names[int(counts.argmin())]!r} for users (accepted: "
                "false, or more images)"
            )
        shared = len(split_images(users_pool.labels, study.seed)[SPLITS.index("calibration")])
    found = {}
    for users in study.users:
        if (log := users.log()) is None:
            found[users.name] = shared
        else:
            pool = log.pools(study.data.preprocessing(data.shape)).pool
            used = np.unique(log.order).tolist()
            # Digests, as the images of a long log do not fit into the memory.
            found[users.name] = len({blake2b(pool.pixels[index].tobytes(), digest_size=12).digest() for index in used})
    return found
