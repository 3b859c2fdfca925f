"""The detector of the kind ``evidence``, and its recorder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from mifsim.defense.detector import ModelAnswer, Verdict, expect_keys
from mifsim.defense.evidence.memory import Memory
from mifsim.defense.fit import Fit
from mifsim.defense.fitted import check_shape, required_fit
from mifsim.defense.recorder import NonBlocking
from mifsim.errors import ConfigError

if TYPE_CHECKING:
    from mifsim.defense.evidence.config import EvidenceConfig

_STATE_VERSION = 1


class Features:
    """The arrays of a fit in the layout of the kernels, and the validation of images.

    Parameters
    ----------
    fit : Fit
        The principal components of the server's own images.
    naturalness : bool
        Whether the classifier of the flag ``naturalness`` is used.

    Attributes
    ----------
    arrays : tuple of ndarray
        Mean, axes and standard deviations; arguments of `kernels.features`.
    components : int
        Number of principal components.
    trees : tuple of ndarray
        Arguments of `naturalness_kernels.log_odds`; empty if the classifier is not used.
    dimensions : int
        Number of coordinates in which queries are compared.
    """

    def __init__(self, fit: Fit, naturalness: bool = False) -> None:
        from mifsim.defense.evidence import kernels  # loads numba, which the import of this module must not
        from mifsim.defense.images import admit

        self._fit, self._admit, self._features = fit, admit, kernels.features
        self.arrays = (fit.arrays["mean"], fit.arrays["axes"], fit.arrays["deviations"])
        self.components = len(fit.arrays["deviations"])
        self.dimensions = min(kernels.NEAR, self.components)
        self.trees: tuple[npt.NDArray[Any], ...] = ()
        if naturalness:
            from mifsim.defense.evidence.naturalness import NAMES

            if NAMES[0] not in fit.arrays:
                raise ConfigError(
                    f"fit = {fit.digest!r}: {fit.file_name} contains no classifier of naturalness (expected a fit made "
                    "with naturalness = true)"
                )
            self.trees = tuple(fit.arrays[name] for name in NAMES)

    def coordinates(
        self, pixels: npt.NDArray[np.float32], found: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the coordinates of a valid image in all components, shape (components,).

        Parameters
        ----------
        pixels : ndarray of float32, shape (H, W) or (H, W, C)
        found : ndarray of float32, shape (3,), optional
            Filled with the features ``average``, ``noisy`` and ``smooth``.
        """
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        features = np.empty(3, np.float32) if found is None else found
        coordinates: npt.NDArray[np.float32] = self._features(
            pixels.reshape(-1), pixels.shape[1], channels, *self.arrays, features
        )
        return coordinates

    def with_naturalness(
        self, pixels: npt.NDArray[np.float32], found: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], np.float32]:
        """Return the coordinates and the log-odds that the image is an outlier; see `coordinates`."""
        from mifsim.defense.evidence import naturalness_kernels

        describe: Callable[..., Any] = naturalness_kernels.features_and_naturalness
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        coordinates, naturalness = describe(
            pixels.reshape(-1), pixels.shape[1], channels, *self.arrays, *self.trees, found
        )
        return coordinates, naturalness

    def admit(self, image: object, shape: tuple[int, ...] | None) -> npt.NDArray[np.float32]:
        """Validate an image, given the shape of the session's first one; see `mifsim.defense.images.admit`.

        Raises
        ------
        InvalidImage
            If the image is not valid, or does not have the shape of the images of the fit.
        """
        pixels = self._admit(image, shape)
        if shape is None:
            check_shape(pixels.shape, self._fit)
        return pixels


class EvidenceDetector:
    """A detector that keeps a leaky count for each flag, and blocks when one of them reaches its limit.

    Parameters
    ----------
    config : EvidenceConfig
    """

    limit = 1.0
    """The count is the largest share of a limit that a leaky count has."""

    def __init__(self, config: EvidenceConfig) -> None:
        from mifsim.defense.evidence import kernels
        from mifsim.defense.evidence.flags import FLAGS

        self._k = config.k
        self._features = Features(config.fitted(), config.naturalness and config.naturalness_limit > 0)
        self._judge: Callable[..., Any] = kernels.judge
        if self._features.trees:
            from mifsim.defense.evidence.naturalness_kernels import judge_with_naturalness

            self._judge = judge_with_naturalness
        self._arrays = (*self._features.arrays, *self._features.trees)
        self._memory = Memory(config.memory, self._features.dimensions)
        self._names = [flag.name for flag in config.enabled()]
        self._rules = (np.array([FLAGS.index(name) for name in self._names]), *config.rules())
        self._counts = np.zeros(len(self._names))
        self._shape: tuple[int, ...] | None = None
        self.count = 0.0
        self.blocked = False

    @property
    def counts(self) -> dict[str, float]:
        """The leaky count of each flag that is on."""
        return dict(zip(self._names, self._counts.tolist(), strict=True))

    def check(self, image: object) -> Verdict:
        """Judge one image; see `Detector.check`."""
        if self.blocked:
            return Verdict.UNSAFE
        pixels = self._features.admit(image, self._shape)
        self._shape = pixels.shape
        memory = self._memory
        # fmt: off
        self.count, stored = self._judge(
            pixels.reshape(-1), pixels.shape[1], pixels.shape[2] if pixels.ndim == 3 else 1, *self._arrays,
            memory.columns, memory.size, memory.place, memory.squares, self._k,
            self._counts, *self._rules,
        )
        # fmt: on
        if stored:
            memory.advance()
        self.blocked = self.count >= self.limit
        return Verdict.UNSAFE if self.blocked else Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Ignore the model's answer."""

    def durable_counts(self) -> dict[str, Any]:
        """Return the leaky counts, their largest share, and whether the client is blocked; see `DurableDetector`."""
        return {"counts": self.counts, "count": float(self.count), "blocked": bool(self.blocked)}

    def resume_counts(self, counts: Mapping[str, Any]) -> None:
        """Continue from saved counts; see `DurableDetector`."""
        expect_keys(counts, "counts", "count", "blocked")
        if sorted(counts["counts"]) != sorted(self._names):
            raise ValueError(f"counts of the flags: {sorted(counts['counts'])}; expected {sorted(self._names)}")
        self._counts[:] = [counts["counts"][name] for name in self._names]
        self.count, self.blocked = float(counts["count"]), bool(counts["blocked"])

    def savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next query; see `DurableDetector`."""
        counts, count, blocked, shape = self._counts.copy(), self.count, self.blocked, self._shape
        undo_memory = self._memory.savepoint()

        def undo() -> None:
            undo_memory()
            self._counts[:] = counts
            self.count, self.blocked, self._shape = count, blocked, shape

        return undo

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with which another process can continue; see `Detector.state_dict`."""
        return {
            "version": _STATE_VERSION,
            "counts": self.counts,
            "count": self.count,
            "blocked": self.blocked,
            "shape": self._shape or (),
            "memory": self._memory.rows(),
        }

    @classmethod
    def from_state(cls, config: EvidenceConfig, state: Mapping[str, Any]) -> Self:
        """Return a detector that continues from a state; see `DetectorConfig.restore`.

        Raises
        ------
        ValueError
            If the state is incomplete, of another version, or of a configuration with other flags or memory.
        """
        expected = {"version", "counts", "count", "blocked", "shape", "memory"}
        if set(state) != expected or state["version"] != _STATE_VERSION:
            raise ValueError(
                f"keys of the state: {sorted(map(str, state))}; expected version = {_STATE_VERSION} and "
                f"{', '.join(sorted(expected - {'version'}))}"
            )
        restored = cls(config)
        if sorted(state["counts"]) != sorted(restored._names):
            raise ValueError(f"counts of the state: {sorted(state['counts'])}; expected {sorted(restored._names)}")
        restored._counts[:] = [state["counts"][name] for name in restored._names]
        restored._memory.restore(np.asarray(state["memory"], np.float32))
        restored._shape, restored.blocked = tuple(state["shape"]) or None, bool(state["blocked"])
        restored.count = float(state["count"])
        return restored


class EvidenceRecorder(NonBlocking):
    """Records the features of each query; it never blocks.

    Parameters
    ----------
    fit : str
        Digest of the fit.
    k, memory : sequence of int
        All combinations are recorded.
    naturalness : bool
        Whether the log-odds of the classifier are recorded.
    """

    def __init__(self, fit: str, k: Sequence[int], memory: Sequence[int], naturalness: bool = False) -> None:
        from mifsim.defense.evidence import kernels

        self._kernels = kernels
        self._features = Features(required_fit("evidence", fit), naturalness)
        self._k = tuple(k)
        self._memories = [Memory(capacity, self._features.dimensions) for capacity in memory]
        self._shape: tuple[int, ...] | None = None
        self._row: dict[str, Any] = {}

    def check(self, image: object) -> Verdict:
        """Compute the features of an image, and return SAFE."""
        pixels = self._features.admit(image, self._shape)
        self._shape = pixels.shape
        found = np.empty(3, np.float32)
        learned = {}
        if self._features.trees:
            coordinates, naturalness = self._features.with_naturalness(pixels, found)
            learned = {"naturalness": naturalness}
        else:
            coordinates = self._features.coordinates(pixels, found)
        self._row = {"average": found[0], "noisy": found[1], "smooth": found[2], **learned}
        distances = np.empty(self._kernels.NEAREST, np.float32)
        for memory in self._memories:
            repeated = self._kernels.nearest(coordinates, memory.columns, memory.size, memory.squares, distances)
            if not repeated:
                memory.columns[:, memory.place] = coordinates[: len(memory.columns)]
                memory.advance()
            self._row[f"repeats_{memory.capacity}"] = np.float32(repeated)
            for k in self._k:
                self._row[f"neighbours_{memory.capacity}_{k}"] = distances[k - 1]
        return Verdict.SAFE

    def row(self) -> Mapping[str, Any]:
        """Return the values to record of the last valid query."""
        return self._row
