"""Sessions that the certificate does not cover, whatever the statistics say: too long, or images of another form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mifsim.watch.promise import Promise, plain_shape

_LOSSY = ("image/jpeg", "image/jpg", "image/webp")
_EXACT_TRANSPORTS = ("float32", "uint8")


def other_shape(shape: str, promise: Promise) -> bool:
    """Return whether images arrived in a shape that was not certified.

    The guard brings them to the certified shape, which changes how similar they are to each other. A calibration from
    a log may have had such images, so that this cannot be told.

    Parameters
    ----------
    shape : str
        As in a guard's log, such as ``"28x28x1"``.
    promise : Promise
    """
    if promise.shape is None or promise.has_log or not re.fullmatch(r"\d+(x\d+)*", shape):
        return False
    return plain_shape(shape.split("x")) != promise.shape


def other_format(content_type: str, promise: Promise) -> bool:
    """Return whether images arrived in a lossy format that the certified transport does not have."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in _LOSSY and promise.transport in _EXACT_TRANSPORTS and not promise.has_log


@dataclass(frozen=True)
class Coverage:
    """How many of n sessions the certificate does not cover.

    Attributes
    ----------
    sessions : int
    longer : int
        Sessions with more queries than the longest certified one.
    other_shape, other_format : int
        Sessions with at least one image of another shape, or in a lossy format, than certified.
    outside : int
        Sessions with at least one of these.
    shapes, formats : mapping of str to int
        Number of sessions with each shape and each content type.
    """

    sessions: int
    longer: int
    other_shape: int
    other_format: int
    outside: int
    shapes: Mapping[str, int]
    formats: Mapping[str, int]

    def share(self, count: int) -> float:
        """Return a number of sessions as a share."""
        return count / self.sessions if self.sessions else 0.0
