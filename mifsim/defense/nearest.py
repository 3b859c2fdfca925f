"""The kind ``nearest``: queries that are close to two earlier ones, after PrivMon.

PrivMon (Ko et al., RAID 2023) is the published system that watches queries for model inversion. For each query it
computes the mean of the two smallest distances to the last 5,000 queries in a perceptual feature space, and replaces
the query if the mean is at most a threshold. This kind differs from it in four points:

* The feature space is that of the principal components of the server's own images, because the weights of LPIPS with
  AlexNet are not available here. PrivMon's threshold of 0.07 has no meaning in this space, so there is no default.
* Distances to all queries in the memory are computed, not those to 10 candidates of a locality-sensitive hash.
* The memory is that of one session or one client, not one for all clients (see `DetectorConfig.scope`), and it starts
  empty; PrivMon's starts with ten black images, which an attack from a black image matches at once.
* A close query counts, and a count of `limit` blocks; PrivMon replaces each close query by a random image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from mifsim.defense.counting import CountingDetector
from mifsim.defense.detector import Verdict
from mifsim.defense.fitted import FittedConfig, required_fit
from mifsim.defense.param import Choice, Param
from mifsim.defense.recorder import NonBlocking
from mifsim.defense.recording import Column, Outcome, RecordedSessions
from mifsim.errors import ConfigError

if TYPE_CHECKING:
    from mifsim.defense.evidence.detector import Features
    from mifsim.defense.evidence.memory import Memory

LARGEST_MEMORY = 16_384


class _Distances:
    """Mean distances of a client's queries to their nearest earlier ones."""

    def __init__(self, fit: str, neighbours: int, memory: int) -> None:
        from mifsim.defense.evidence import kernels
        from mifsim.defense.evidence.detector import Features
        from mifsim.defense.evidence.memory import Memory

        self._kernels = kernels
        self.features: Features = Features(required_fit("nearest", fit))
        self.memory: Memory = Memory(memory, self.features.dimensions)
        self._least = np.empty(neighbours, np.float32)

    def next(self, pixels: npt.NDArray[np.float32]) -> np.float32:
        """Return the mean distance of an image, and add the image to the memory."""
        memory = self.memory
        coordinates = self.features.coordinates(pixels)
        found: np.float32 = self._kernels.mean_distance(
            coordinates, memory.columns, memory.size, memory.squares, self._least
        )
        memory.columns[:, memory.place] = coordinates[: len(memory.columns)]
        memory.advance()
        return found


class NearestDetector(CountingDetector):
    """A detector that counts queries whose mean distance to the nearest earlier ones is at most a threshold."""

    def __init__(self, config: NearestConfig) -> None:
        super().__init__(config.limit)
        self._distances = _Distances(config.fit, config.neighbours, config.memory)
        self._radius = config.radius

    def admit(self, image: object, shape: tuple[int, ...] | None) -> npt.NDArray[np.float32]:
        """Validate an image; see `Features.admit`."""
        return self._distances.features.admit(image, shape)

    def step(self, pixels: npt.NDArray[np.float32]) -> float:
        """Return 1 for a close query, else 0."""
        return float(np.float64(self._distances.next(pixels)) <= self._radius)

    def memory(self) -> dict[str, Any]:
        """Return the coordinates of the earlier queries."""
        return {"queries": self._distances.memory.rows()}

    def memory_savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next query."""
        return self._distances.memory.savepoint()

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Restore the coordinates that `memory` returned."""
        self._distances.memory.restore(np.asarray(memory["queries"], np.float32))


class NearestRecorder(NonBlocking):
    """Records the mean distance of each query for each size of the memory; it never blocks."""

    def __init__(self, fit: str, neighbours: int, memory: tuple[int, ...]) -> None:
        self._distances = {size: _Distances(fit, neighbours, size) for size in memory}
        self._shape: tuple[int, ...] | None = None
        self._row: dict[str, Any] = {}

    def check(self, image: object) -> Verdict:
        """Compute the distances of an image, and return SAFE."""
        pixels = next(iter(self._distances.values())).features.admit(image, self._shape)
        self._shape = pixels.shape
        self._row = {f"distance_{size}": found.next(pixels) for size, found in self._distances.items()}
        return Verdict.SAFE

    def row(self) -> Mapping[str, Any]:
        """Return the values to record of the last valid query."""
        return self._row


@dataclass(frozen=True)
class NearestConfig(FittedConfig):
    """Configuration of the kind ``nearest``.

    Attributes
    ----------
    radius : float
        A query counts if its mean distance to the nearest earlier ones, in the first 30 principal components, is at
        most this; at least 0.
    limit : int
        Count that blocks; at least 1.
    neighbours : int
        Number of nearest earlier queries, 1 to 10; 2 in PrivMon.
    memory : int
        Number of earlier queries that are compared, 1 to 16,384; 5,000 in PrivMon.
    fit, scope, view
        See `FittedConfig`; keyword-only.

    Raises
    ------
    ConfigError
        If a value is not accepted.
    """

    radius: float
    limit: int = 1
    neighbours: int = 2
    memory: int = 5000

    kind: ClassVar[str] = "nearest"
    params: ClassVar[Mapping[str, Param]] = {
        "radius": Param(0.01, 20.0, "mean distance to the nearest queries", strictness=1, least=0.0),
        "limit": Param(1, 100, "close queries before the block", whole=True, strictness=-1, least=1),
    }
    choices: ClassVar[Mapping[str, Choice]] = {
        "neighbours": Choice(range(1, 11), 2, "nearest earlier queries"),
        "memory": Choice(range(1, LARGEST_MEMORY + 1), 5000, "earlier queries that are compared"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        radius: Any = self.radius
        if isinstance(radius, bool) or not isinstance(radius, Real) or not 0 <= float(radius) < math.inf:
            raise ConfigError(f"radius = {radius!r}: must be a number of at least 0")
        object.__setattr__(self, "radius", float(radius))
        for name, most in (("limit", 10**9), ("neighbours", 10), ("memory", LARGEST_MEMORY)):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= int(value) <= most:
                raise ConfigError(f"{name} = {value!r}: must be a whole number from 1 to {most}")
            object.__setattr__(self, name, int(value))

    def one_by_one(self) -> bool:
        """Return true; see `DetectorConfig.one_by_one`."""
        return True

    def new_detector(self) -> NearestDetector:
        """Return a detector in its initial state."""
        return NearestDetector(self)

    def recording(self) -> Mapping[str, Any]:
        """Return the fit, the number of neighbours, and the memory."""
        return {"fit": self.fit, "neighbours": self.neighbours, "memory": (self.memory,)}

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        """Return one distance for each memory."""
        return {f"distance_{size}": Column("float32") for size in options["memory"]}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> NearestRecorder:
        """Return a recorder in its initial state."""
        return NearestRecorder(options["fit"], options["neighbours"], tuple(options["memory"]))

    @classmethod
    def merge(cls, first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the memories of both; None if the fits or the numbers of neighbours differ."""
        if (first["fit"], first["neighbours"]) != (second["fit"], second["neighbours"]):
            return None
        return {**first, "memory": tuple(sorted({*first["memory"], *second["memory"]}))}

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Return the query at which the count of close queries reaches the limit."""
        column = f"distance_{self.memory}"
        if column not in sessions.columns:
            raise ValueError(f"memory = {self.memory}: not in the recording of {', '.join(sessions.columns)}")
        close = sessions.valid & (sessions.columns[column].astype(np.float64) <= self.radius)
        before = np.concatenate([[0], np.cumsum(close)])
        first, last = before[sessions.offsets[:-1]], before[sessions.offsets[1:]]
        place = np.searchsorted(before, first + self.limit)
        blocked_at = np.where(last - first >= self.limit, place - sessions.offsets[:-1], 0).astype(np.int64)
        return Outcome(blocked_at, np.minimum(1.0, (last - first + 1) / self.limit))
