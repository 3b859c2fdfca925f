"""The images from which honest users draw: whether there are as many as their sessions can need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from mifsim.clients.protocol import User
from mifsim.data.base import DataSet
from mifsim.errors import StudyError
from mifsim.study import Study, Users
from mifsim.study.splitting import SPLITS, split_images


class Shortage(NamedTuple):
    """A workload whose sessions can need more different images than there are.

    Attributes
    ----------
    users : Users
    needed, available : int
        Number of different images; `needed` is exceeded by at most one session in a thousand.
    of_class : str or None
        The class of all of these images; None: they may be of any class.
    """

    users: Users
    needed: int
    available: int
    of_class: str | None


def shortages(populations: Iterable[Users], data: DataSet, separate: bool, seed: int) -> Iterator[Shortage]:
    """Yield each workload whose sessions can need more different images than there are, with its greatest shortage.

    Parameters
    ----------
    populations : iterable of Users
    data : DataSet
    separate : bool
        Whether each split of a calibration has images of its own.
    seed : int
        The study's seed, which determines the images of the splits.
    """
    labels = data.subset("users").labels
    pools = [labels[part] for part in split_images(labels, seed)] if separate else [labels]
    counts = np.stack([np.bincount(pool, minlength=len(data.class_names)) for pool in pools])
    smallest = int(counts.min(axis=0).argmin())
    in_class, in_all = int(counts.min()), min(map(len, pools))
    for users in populations:
        needs = [
            Shortage(users, need.images, in_class if need.one_class else in_all, name)
            for need in (users.client.image_needs() if isinstance(users.client, User) else ())
            for name in [data.class_names[smallest] if need.one_class else None]
        ]
        if needs and (worst := max(needs, key=lambda need: need.needed - need.available)).needed > worst.available:
            yield worst


def check_pools(study: Study, data: DataSet, separate: bool = False) -> None:
    """Raise an error if a session can need more different images than there are, unless it may repeat its images.

    Parameters
    ----------
    study : Study
    data : DataSet
    separate : bool
        See `shortages`.

    Raises
    ------
    StudyError
        Names the workloads and the numbers.
    """
    lines = [
        f"{study.name}: users.{study.users.index(found.users)}: a session of {found.users.name!r} can need "
        f"{found.needed:,} different images{_of(found)}, but {_have(found, data, separate)}; accepted: shorter "
        f"sessions, more images, or repeat_images = true (a session then sends its images again, which a detector may "
        "block)"
        for found in shortages(study.users, data, separate, study.seed)
        if not found.users.repeat_images
    ]
    if lines:
        raise StudyError("\n".join(lines))


def pool_facts(study: Study, data: DataSet, separate: bool = False) -> dict[str, dict[str, object]]:
    """Return the workloads whose sessions may send their images again, with the numbers, for ``run.json``."""
    return {
        found.users.name: {
            "needed": found.needed,
            "available": found.available,
            "one_class": found.of_class is not None,
        }
        for found in shortages(study.users, data, separate, study.seed)
    }


def _of(found: Shortage) -> str:
    return "" if found.of_class is None else " of one class"


def _have(found: Shortage, data: DataSet, separate: bool) -> str:
    of_class = "" if found.of_class is None else f" of {found.of_class!r}"
    total = len(data.subset("users"))
    if not separate:
        return f"{data.name} has {found.available:,}{of_class} for users" + ("" if of_class else " in all")
    return (
        f"each of the {len(SPLITS)} splits has {found.available:,}{of_class} of its own ({total:,} images for users; "
        "tuning.separate_images = true)"
    )
