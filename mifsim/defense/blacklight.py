"""The kind ``blacklight``: hashes that an image shares with earlier queries (Li et al., USENIX Security 2022)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
from mifsim.errors import InvalidImage

HASHES = 50
"""Number of hashes that are kept of an image."""

_WINDOWS = range(1, 1025)
_MEMORIES = range(1, 100_001)
_SALTS = range(2**31)


@dataclass(frozen=True)
class BlacklightConfig(DetectorConfig):
    """Configuration of Blacklight, which flags an image that shares hashes with an earlier one.

    An image in [0, 255] is salted (plus a secret integer per pixel and channel, modulo 255), flattened channel by
    channel, and rounded to multiples of 50. Each window of `window` consecutive values, every `stride` values, is
    hashed with SHA-256. The 50 hashes whose reversed hexadecimal texts are the largest represent the image. A query is
    flagged if it shares at least `threshold` of them with a single one of the last `memory` queries. Flagged images
    are remembered as well.

    The defaults of `threshold`, `window` and `stride` are the published ones for images of 32x32 pixels; for 224x224
    pixels and more, `window` is 50 and `stride` 25. **The threshold is not safe for every data set, and depends on the
    salt**: where images have a constant background, as digits have, the windows of the background give the same hashes
    in all images, and the salt decides how many of them are kept. Calibrate and certify with the salt that is
    installed, and keep it secret: with the salt, an attacker can compute the hashes.

    Attributes
    ----------
    threshold : int
        Number of shared hashes at which a query is flagged, from 1 to 50.
    limit : int
        Number of flagged queries that block; 1 blocks at the first one.
    window : int
        Number of consecutive values that are hashed together, from 1 to 1,024.
    stride : int
        Distance of the windows' first values, from 1 to 1,024. An image with fewer than 50 windows has fewer hashes.
    memory : int
        Number of previous queries that an image is compared with, from 1 to 100,000; 400 bytes each.
    salt : int
        Seed of the salt, from 0 to 2**31 - 1; see `salt_of`.
    scope, view
        See `DetectorConfig`; keyword-only.

    Raises
    ------
    ConfigError
        If a field is not accepted. The message names field, value and what is accepted.

    Notes
    -----
    Differences from the publication: it remembers all queries of all clients, without a limit, whereas mifsim remembers
    the last `memory` queries of a session or client (see `scope`). It refuses a flagged query (or returns the stored
    answer) and continues, whereas mifsim blocks at the `limit`-th one. Two hashes are equal in mifsim if 64 of their
    256 bits are. The salt is the same for images of one shape and seed; the published code draws it at each start.

    References
    ----------
    H. Li et al., "Blacklight: Scalable Defense for Neural Networks against Query-Based Black-Box Attacks", USENIX
    Security 2022. The authors' code was not available; the algorithm and the defaults are those of a later
    publication's code, ``models/statefuldefense.py`` and ``configs/cifar`` in
    nmangaokar/ccs_23_oars_stateful_attacks.

    Examples
    --------
    >>> import numpy as np
    >>> detector = BlacklightConfig(limit=2).detector()
    >>> image = np.random.default_rng(0).random((28, 28))
    >>> [detector.check(image).name for _ in range(4)]
    ['SAFE', 'SAFE', 'UNSAFE', 'UNSAFE']
    """

    threshold: int = 25
    limit: int = 1
    window: int = 20
    stride: int = 1
    memory: int = 10_000
    salt: int = 0

    kind: ClassVar[str] = "blacklight"
    params: ClassVar[Mapping[str, Param]] = {
        "threshold": Param(
            1, HASHES, "shared hashes that flag a query", whole=True, strictness=-1, least=1, most=HASHES,
            scale="linear",
        ),
        "limit": Param(1, 64, "flagged queries that block", whole=True, strictness=-1, least=1, most=65536),
    }  # fmt: skip
    choices: ClassVar[Mapping[str, Choice]] = {
        "window": Choice(_WINDOWS, 20, "values that are hashed together"),
        "stride": Choice(_WINDOWS, 1, "distance of the windows"),
        "memory": Choice(_MEMORIES, 10_000, "previous queries that an image is compared with"),
        "salt": Choice(_SALTS, 0, "seed of the salt"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, param in self.params.items():
            object.__setattr__(self, name, parameter(name, getattr(self, name), param))
        for name, accepted in (("window", _WINDOWS), ("stride", _WINDOWS), ("memory", _MEMORIES), ("salt", _SALTS)):
            value = whole_number(name, getattr(self, name), accepted[0], accepted[-1])
            object.__setattr__(self, name, value)

    def one_by_one(self) -> bool:
        """Return true; see `DetectorConfig.one_by_one`."""
        return True

    def new_detector(self) -> Blacklight:
        """Return a detector in its initial state."""
        return Blacklight(self)

    def recording(self) -> Mapping[str, Any]:
        """Return the hashing options, and the number of previous queries to compare with."""
        return {"window": self.window, "stride": self.stride, "salt": self.salt, "memories": (self.memory,)}

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        """Return one column per memory: the largest number of hashes shared with one of the last queries."""
        return {_column(memory): Column("int64") for memory in options["memories"]}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> BlacklightRecorder:
        """Return a recorder in its initial state."""
        return BlacklightRecorder(options["window"], options["stride"], options["salt"], options["memories"])

    @classmethod
    def merge(cls, first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the memories of both; None if they hash differently."""
        if any(first[name] != second[name] for name in ("window", "stride", "salt")):
            return None
        return {**first, "memories": tuple(sorted({*first["memories"], *second["memories"]}))}

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Replay recorded sessions under this configuration.

        Raises
        ------
        ValueError
            If the recording does not contain the data that the configuration needs.
        """
        for name in ("window", "stride", "salt"):
            if (recorded := sessions.options.get(name)) != getattr(self, name):
                raise ValueError(f"{name} = {getattr(self, name)}: must be {recorded}, that of the recording")
        shared = recorded_column(sessions, _column(self.memory))
        return blocked_by_flags(sessions, shared >= self.threshold, self.limit, shared / self.threshold)


class Blacklight(CountingDetector):
    """Detector of the kind ``blacklight``; it counts flagged queries.

    Parameters
    ----------
    config : BlacklightConfig
    """

    def __init__(self, config: BlacklightConfig) -> None:
        super().__init__(config.limit)
        self._threshold = config.threshold
        self._digests = _Digests(config.window, config.stride, config.salt, (config.memory,))

    def step(self, pixels: npt.NDArray[np.float32]) -> float:
        """Return 1 for a flagged image, otherwise 0, and remember the image's digest."""
        return float(self._digests.shared(pixels)[0] >= self._threshold)

    def memory(self) -> dict[str, Any]:
        """Return the remembered digests, the oldest first: uint64, shape (n, 50)."""
        return {"digests": self._digests.history.in_order()}

    def memory_savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next query."""
        return self._digests.history.savepoint()

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Restore the digests."""
        digests = memory["digests"]
        if np.shape(digests)[1:] not in ((0,), (HASHES,)):
            raise ValueError(f"digests of the state: shape {np.shape(digests)}; expected (n, {HASHES})")
        self._digests.history.restore(digests)


class BlacklightRecorder(PixelRecorder):
    """Recorder of the kind ``blacklight``: the largest number of shared hashes, for each memory.

    Parameters
    ----------
    window, stride, salt : int
        See `BlacklightConfig`.
    memories : sequence of int
        Numbers of previous queries to compare with, ascending.
    """

    def __init__(self, window: int, stride: int, salt: int, memories: Sequence[int]) -> None:
        super().__init__()
        self._digests = _Digests(window, stride, salt, memories)
        self._names = [_column(memory) for memory in memories]

    def measure(self, pixels: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Return the numbers of shared hashes, and remember the image's digest."""
        return dict(zip(self._names, self._digests.shared(pixels).tolist(), strict=True))


class _Digests:
    """Digests of the last images, and their comparison with a new one."""

    def __init__(self, window: int, stride: int, salt: int, memories: Sequence[int]) -> None:
        self._window, self._stride, self._salt = window, stride, salt
        self._memories = np.array(memories, dtype=np.int64)
        self.history = History(max(memories), np.uint64)

    def shared(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Return the largest number of shared hashes for each memory, and append the image's digest."""
        from mifsim.defense import blacklight_kernels
        from mifsim.defense.images import to_planes

        if pixels.size < self._window + self._stride - 1:  # the published number of windows would be 0
            raise InvalidImage(
                f"got {pixels.size} values; window = {self._window} and stride = {self._stride} need at least "
                f"{self._window + self._stride - 1}"
            )
        height, width, channels = (*pixels.shape, 1)[:3]
        digest = np.empty(HASHES, dtype=np.uint64)
        salt = salt_of(self._salt, height, width, channels)
        _digest_kernel()(to_planes(pixels).reshape(-1), salt, self._window, self._stride, digest)
        found = np.zeros(len(self._memories), dtype=np.int64)
        stored = self.history
        blacklight_kernels.most_shared(digest, stored.rows, stored.start, stored.size, self._memories, found)
        stored.push(digest)
        return found


@lru_cache(maxsize=1)
def _digest_kernel() -> Callable[..., None]:
    """Return the kernel that computes digests, with the processor's instructions for SHA-256 if it has them."""
    from mifsim.defense import blacklight_kernels, sha256_x86

    if not sha256_x86.supported():
        return blacklight_kernels.digest_of
    from mifsim.defense import blacklight_x86_kernels

    return blacklight_x86_kernels.digest_of


@lru_cache(maxsize=64)
def salt_of(seed: int, height: int, width: int, channels: int) -> npt.NDArray[np.float32]:
    """Return the salt of images of one shape: independent, uniform whole numbers from 0 to 254.

    The numbers are the bytes of SHA-256 of the texts ``"seed height width channels 0"``, ``"... 1"`` and so on, except
    those equal to 255. Therefore a salt does not depend on the version of a random number generator.

    Returns
    -------
    ndarray of float32, shape (channels * height * width,)
        Channel by channel; read-only.

    Examples
    --------
    >>> salt_of(0, 2, 2, 1).tolist()
    [55.0, 86.0, 11.0, 168.0]
    """
    found = bytearray()
    block = 0
    while len(found) < height * width * channels:
        digest = hashlib.sha256(f"{seed} {height} {width} {channels} {block}".encode()).digest()
        found += digest.replace(b"\xff", b"")
        block += 1
    salt = np.frombuffer(found, dtype=np.uint8)[: height * width * channels].astype(np.float32)
    salt.setflags(write=False)
    return salt


def _column(memory: int) -> str:
    return f"shared_{memory}"
