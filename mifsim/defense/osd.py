"""Stateful Detection (Chen, Carlini and Wagner 2019): what the kinds ``osd-l2`` and ``osd-pca`` have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from mifsim.defense.config import DetectorConfig
from mifsim.defense.counting import CountingDetector
from mifsim.defense.fields import parameter, whole_number
from mifsim.defense.flags import blocked_by_flags, recorded_column
from mifsim.defense.history import History
from mifsim.defense.param import Choice, Param
from mifsim.defense.pixel_recorder import PixelRecorder
from mifsim.defense.recording import Column, Outcome, RecordedSessions
from mifsim.errors import ConfigError

if TYPE_CHECKING:
    from mifsim.defense.evidence.detector import Features

KS = range(1, 1001)
MEMORIES = range(1, 100_001)


@dataclass(frozen=True)
class OsdConfig(DetectorConfig):
    """Base class of the configurations: parameters, recorded columns and replay.

    A query is flagged if the mean L2 distance to its `k` nearest neighbours among the last `memory` queries is below
    `threshold`. The first `k` queries are not compared, so query ``k + 1`` is the first that can be flagged.

    Attributes
    ----------
    threshold : float
        Mean L2 distance below which a query is flagged; at least 0.
    limit : int
        Number of flagged queries that block; 1 blocks at the first one.
    k : int
        Number of nearest neighbours, from 1 to 1,000.
    memory : int
        Number of previous queries that are kept, from `k` to 100,000.

    Raises
    ------
    ConfigError
        If a field is not accepted. The message names field, value and what is accepted.
    """

    threshold: float
    limit: int = 1
    k: int = 50
    memory: int = 10_000

    params: ClassVar[Mapping[str, Param]] = {
        "threshold": Param(0.01, 30.0, "mean distance to the nearest queries that flags", strictness=1, least=0.0),
        "limit": Param(1, 64, "flagged queries that block", whole=True, strictness=-1, least=1, most=65536),
    }
    choices: ClassVar[Mapping[str, Choice]] = {
        "k": Choice(KS, 50, "number of nearest neighbours"),
        "memory": Choice(MEMORIES, 10_000, "previous queries that are kept"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, param in self.params.items():
            object.__setattr__(self, name, parameter(name, getattr(self, name), param))
        object.__setattr__(self, "k", whole_number("k", self.k, KS[0], KS[-1]))
        object.__setattr__(self, "memory", whole_number("memory", self.memory, MEMORIES[0], MEMORIES[-1]))
        if self.memory < self.k:
            raise ConfigError(f"memory = {self.memory}: must be at least k = {self.k}, or no query could be flagged")

    def recording(self) -> Mapping[str, Any]:
        """Return the numbers of neighbours and of previous queries."""
        return {"ks": (self.k,), "memories": (self.memory,)}

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        """Return one column for each number of neighbours and each memory: the mean distance, NaN if undefined."""
        return {_column(k, memory): Column("float32") for k in options["ks"] for memory in options["memories"]}

    @classmethod
    def merge(cls, first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the neighbours and memories of both; None if other options differ."""
        merged = {name: tuple(sorted({*first[name], *second[name]})) for name in ("ks", "memories")}
        return {**first, **merged} if {**first, **merged} == {**second, **merged} else None

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Replay recorded sessions under this configuration.

        Raises
        ------
        ValueError
            If the recording does not contain the data that the configuration needs.
        """
        means = recorded_column(sessions, _column(self.k, self.memory)).astype(np.float64)
        # A mean of 0 is not flagged under a threshold of 0, but no other is nearer to it.
        known = np.where(np.isnan(means), np.inf, means)
        closeness = np.divide(self.threshold, known, out=np.ones_like(known), where=known > 0)
        return blocked_by_flags(sessions, means < self.threshold, self.limit, closeness)


class OsdDetector(CountingDetector):
    """Detector of the kinds ``osd-l2`` and ``osd-pca``; it counts flagged queries.

    Parameters
    ----------
    config : OsdConfig
    encoder : Features or None
        Computes the coordinates in which images are compared; None: images are compared in pixels.
    """

    def __init__(self, config: OsdConfig, encoder: Features | None = None) -> None:
        super().__init__(config.limit)
        self._threshold = config.threshold
        self._encoder = encoder
        self._neighbours = _Neighbours((config.k,), (config.memory,), encoder)

    def admit(self, image: object, shape: tuple[int, ...] | None) -> npt.NDArray[np.float32]:
        """Validate an image; with an encoder, see `Features.admit`."""
        return super().admit(image, shape) if self._encoder is None else self._encoder.admit(image, shape)

    def step(self, pixels: npt.NDArray[np.float32]) -> float:
        """Return 1 for a flagged image, otherwise 0, and remember the image."""
        return float(float(self._neighbours.means(pixels)[0, 0]) < self._threshold)

    def memory(self) -> dict[str, Any]:
        """Return the remembered images, the oldest first: float32, shape (n, pixels or coordinates)."""
        return {"images": self._neighbours.history.in_order()}

    def memory_savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next query."""
        return self._neighbours.history.savepoint()

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Restore the images."""
        width = int(np.prod(self._shape)) if self._shape else 0
        if self._encoder is not None and self._shape:
            width = self._encoder.components
        if np.shape(memory["images"])[1:] != (width,):
            raise ValueError(f"images of the state: shape {np.shape(memory['images'])}; expected (n, {width})")
        self._neighbours.history.restore(memory["images"])


class OsdRecorder(PixelRecorder):
    """Recorder of the kinds ``osd-l2`` and ``osd-pca``: mean distances to the nearest earlier queries.

    Parameters
    ----------
    ks : sequence of int
        Numbers of nearest neighbours, ascending.
    memories : sequence of int
        Numbers of previous queries to compare with.
    encoder : Features or None
        See `OsdDetector`.
    """

    def __init__(self, ks: Sequence[int], memories: Sequence[int], encoder: Features | None = None) -> None:
        super().__init__()
        if encoder is not None:
            self._admit = encoder.admit
        self._neighbours = _Neighbours(ks, memories, encoder)
        self._names = [_column(k, memory) for k in ks for memory in memories]

    def measure(self, pixels: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Return the mean distances, and remember the image."""
        return dict(zip(self._names, self._neighbours.means(pixels).reshape(-1), strict=True))


class _Neighbours:
    """The last images, and the distances of a new one to the nearest of them."""

    def __init__(self, ks: Sequence[int], memories: Sequence[int], encoder: Features | None) -> None:
        self._ks, self._memories = np.array(ks, dtype=np.int64), np.array(memories, dtype=np.int64)
        self._encoder = encoder
        self.history = History(max(memories), np.float32)

    def means(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the mean distances, of shape (ks, memories), and append the image."""
        from mifsim.defense import distance_kernels

        found = np.empty((len(self._ks), len(self._memories)), dtype=np.float32)
        row = pixels.reshape(-1) if self._encoder is None else self._encoder.coordinates(pixels)
        stored = self.history
        distance_kernels.nearest_means(
            row, stored.rows, stored.start, stored.size, self._ks, self._memories, found
        )  # fmt: skip
        stored.push(row)
        return found


def threshold_among(rows: Sequence[npt.NDArray[np.float32]], k: int) -> float:
    """Compute the threshold of the publication from images without attacks, such as the training images.

    It is the 0.1 percentile, over all images, of the mean distance to the `k` nearest of all images. An image is itself
    one of these, with a distance of 0.

    Parameters
    ----------
    rows : sequence of ndarray of float32, shape (d,)
        The pixels or coordinates of each image.
    k : int
        Number of nearest neighbours; see `OsdConfig`.

    Raises
    ------
    ConfigError
        If `k` is not accepted, or there are fewer than `k` images.
    """
    from mifsim.defense import distance_kernels

    k = whole_number("k", k, KS[0], KS[-1])
    if len(rows) < k:
        raise ConfigError(f"{len(rows)} images: the threshold for k = {k} needs at least {k}")
    means = np.empty(len(rows))
    distance_kernels.means_among(np.stack(rows), k, means)
    return float(np.percentile(means, 0.1))


def _column(k: int, memory: int) -> str:
    return f"mean_{k}_of_{memory}"
