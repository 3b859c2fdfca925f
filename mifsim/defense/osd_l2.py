"""The kind ``osd-l2``: the mean distance to the nearest earlier queries (Chen, Carlini and Wagner 2019), in pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

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
from mifsim.defense.view import View
from mifsim.errors import ConfigError

_KS = range(1, 1001)
_MEMORIES = range(1, 100_001)


@dataclass(frozen=True)
class OsdL2Config(DetectorConfig):
    """Configuration of Stateful Detection on pixels, which flags an image that has many similar earlier ones.

    A query is flagged if the mean L2 distance to its `k` nearest neighbours among the last `memory` queries is below
    `threshold`. The first `k` queries are not compared, so query ``k + 1`` is the first that can be flagged.

    The defaults of `k` and `threshold` are the published ones for CIFAR-10 (32x32 pixels, three colours). Distances
    grow with the size of the images: compute the threshold for other images with `threshold_of`, or calibrate it.

    Attributes
    ----------
    threshold : float
        Mean L2 distance below which a query is flagged; at least 0. Pixels are in [0, 1].
    limit : int
        Number of flagged queries that block; 1 blocks at the first one.
    k : int
        Number of nearest neighbours, from 1 to 1,000.
    memory : int
        Number of previous queries that are kept, from `k` to 100,000; 4 bytes for each pixel and channel.
    scope, view
        See `DetectorConfig`; keyword-only.

    Raises
    ------
    ConfigError
        If a field is not accepted. The message names field, value and what is accepted.

    Notes
    -----
    Differences from the publication, whose memory has no limit: mifsim keeps the last `memory` queries, and forgets the
    oldest one (another implementation, in MindArmour, empties its memory after 10,000 queries). The published code
    empties the memory at a detection and answers the query; this represents the ban of an account. With ``limit = 1``,
    mifsim blocks at the same query. With a larger `limit`, **mifsim does not empty the memory**, because the distances
    of later queries would then depend on the threshold, and a recording could not serve more than one. A count of
    published detections, each of which needs ``k + 1`` queries, is therefore not the same as `limit`.

    The published variants with a trained encoder are not included: pixels are the encoder of ``L2Detector``.

    References
    ----------
    S. Chen, N. Carlini and D. Wagner, "Stateful Detection of Black-Box Adversarial Attacks", arXiv 1907.05587. Code:
    ``detection.py`` in schoyc/blackbox-detection.

    Examples
    --------
    >>> import numpy as np
    >>> detector = OsdL2Config(threshold=0.1, k=2).detector()
    >>> [detector.check(np.full((8, 8), 0.5)).name for _ in range(3)]
    ['SAFE', 'SAFE', 'UNSAFE']
    """

    threshold: float = 5.069
    limit: int = 1
    k: int = 50
    memory: int = 10_000

    kind: ClassVar[str] = "osd-l2"
    params: ClassVar[Mapping[str, Param]] = {
        "threshold": Param(0.01, 30.0, "mean distance to the nearest queries that flags", strictness=1, least=0.0),
        "limit": Param(1, 64, "flagged queries that block", whole=True, strictness=-1, least=1, most=65536),
    }
    choices: ClassVar[Mapping[str, Choice]] = {
        "k": Choice(_KS, 50, "number of nearest neighbours"),
        "memory": Choice(_MEMORIES, 10_000, "previous queries that are kept"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, param in self.params.items():
            object.__setattr__(self, name, parameter(name, getattr(self, name), param))
        object.__setattr__(self, "k", whole_number("k", self.k, _KS[0], _KS[-1]))
        object.__setattr__(self, "memory", whole_number("memory", self.memory, _MEMORIES[0], _MEMORIES[-1]))
        if self.memory < self.k:
            raise ConfigError(f"memory = {self.memory}: must be at least k = {self.k}, or no query could be flagged")

    def new_detector(self) -> OsdL2:
        """Return a detector in its initial state."""
        return OsdL2(self)

    def recording(self) -> Mapping[str, Any]:
        """Return the numbers of neighbours and of previous queries."""
        return {"ks": (self.k,), "memories": (self.memory,)}

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        """Return one column for each number of neighbours and each memory: the mean distance, NaN if undefined."""
        return {_column(k, memory): Column("float32") for k in options["ks"] for memory in options["memories"]}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> OsdL2Recorder:
        """Return a recorder in its initial state."""
        return OsdL2Recorder(options["ks"], options["memories"])

    @classmethod
    def merge(cls, first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the neighbours and memories of both."""
        return {name: tuple(sorted({*first[name], *second[name]})) for name in ("ks", "memories")}

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


class OsdL2(CountingDetector):
    """Detector of the kind ``osd-l2``; it counts flagged queries.

    Parameters
    ----------
    config : OsdL2Config
    """

    def __init__(self, config: OsdL2Config) -> None:
        super().__init__(config.limit)
        self._threshold = config.threshold
        self._neighbours = _Neighbours((config.k,), (config.memory,))

    def step(self, pixels: npt.NDArray[np.float32]) -> float:
        """Return 1 for a flagged image, otherwise 0, and remember the image."""
        return float(float(self._neighbours.means(pixels)[0, 0]) < self._threshold)

    def memory(self) -> dict[str, Any]:
        """Return the remembered images, the oldest first: float32, shape (n, pixels)."""
        return {"images": self._neighbours.history.in_order()}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Restore the images."""
        pixels = int(np.prod(self._shape)) if self._shape else 0
        if np.shape(memory["images"])[1:] != (pixels,):
            raise ValueError(f"images of the state: shape {np.shape(memory['images'])}; expected (n, {pixels})")
        self._neighbours.history.restore(memory["images"])


class OsdL2Recorder(PixelRecorder):
    """Recorder of the kind ``osd-l2``: mean distances to the nearest earlier queries.

    Parameters
    ----------
    ks : sequence of int
        Numbers of nearest neighbours, ascending.
    memories : sequence of int
        Numbers of previous queries to compare with.
    """

    def __init__(self, ks: Sequence[int], memories: Sequence[int]) -> None:
        super().__init__()
        self._neighbours = _Neighbours(ks, memories)
        self._names = [_column(k, memory) for k in ks for memory in memories]

    def measure(self, pixels: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Return the mean distances, and remember the image."""
        return dict(zip(self._names, self._neighbours.means(pixels).reshape(-1), strict=True))


class _Neighbours:
    """The last images, and the distances of a new one to the nearest of them."""

    def __init__(self, ks: Sequence[int], memories: Sequence[int]) -> None:
        self._ks, self._memories = np.array(ks, dtype=np.int64), np.array(memories, dtype=np.int64)
        self.history = History(max(memories), np.float32)

    def means(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the mean distances, of shape (ks, memories), and append the image."""
        from mifsim.defense import distance_kernels

        found = np.empty((len(self._ks), len(self._memories)), dtype=np.float32)
        row, stored = pixels.reshape(-1), self.history
        distance_kernels.nearest_means(
            row, stored.rows, stored.start, stored.size, self._ks, self._memories, found
        )  # fmt: skip
        stored.push(row)
        return found


def threshold_of(images: Sequence[object], k: int = 50, view: View | None = None) -> float:
    """Compute the threshold of the publication from images without attacks, such as the training images.

    It is the 0.1 percentile, over all images, of the mean distance to the `k` nearest of all images. An image is itself
    one of these, with a distance of 0.

    Parameters
    ----------
    images : sequence of ndarray, shape (H, W) or (H, W, C)
        ``uint8``, or floats in [0, 1]; at least `k` images of one shape. The time grows with the square of their
        number: about 0.2 µs for each pair of images of 28x28 pixels.
    k : int
        Number of nearest neighbours; see `OsdL2Config`.
    view : View or None
        Reduction of the images before they are compared; None for none.

    Returns
    -------
    float
        A value for `OsdL2Config.threshold`.

    Raises
    ------
    ConfigError
        If `k` is not accepted, or there are fewer than `k` images.
    InvalidImage
        If an image is not valid.

    Notes
    -----
    The published value for ``k = 50`` and the training images of CIFAR-10 is 5.069. This implementation has not been
    checked against it, because CIFAR-10 was not available. The published code leaves out the images after the last
    complete thousand; this function uses all of them.

    Examples
    --------
    Images of one pixel and their distances to the nearest other image, whose mean with 0 is half of them:

    >>> import numpy as np
    >>> images = [np.full((1, 1), level) for level in (0.0, 0.25, 1.0)]
    >>> round(threshold_of(images, k=2), 6)  # the means are 0.125, 0.125 and 0.375
    0.125
    """
    from mifsim.defense import distance_kernels
    from mifsim.defense.images import admit

    k = whole_number("k", k, _KS[0], _KS[-1])
    if len(images) < k:
        raise ConfigError(f"{len(images)} images: the threshold for k = {k} needs at least {k}")
    rows: list[npt.NDArray[np.float32]] = []
    shape = None
    for image in images:
        pixels = admit(image, shape)
        shape = pixels.shape
        rows.append((pixels if view is None else view.apply(pixels)).reshape(-1))
    means = np.empty(len(rows))
    distance_kernels.means_among(np.stack(rows), k, means)
    return float(np.percentile(means, 0.1))


def _column(k: int, memory: int) -> str:
    return f"mean_{k}_of_{memory}"
