"""Base class of detectors that keep a count and block when it reaches a limit."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from mifsim.defense.detector import ModelAnswer, Verdict, expect_keys

if TYPE_CHECKING:
    from mifsim.defense.config import DetectorConfig

_STATE_VERSION = 1


class CountingDetector(ABC):
    """A detector that adds a value to a count at each query, and blocks permanently when the count reaches a limit.

    A subclass defines `step`. If its state consists of more than the count, it also defines `memory` and `remember`.

    Parameters
    ----------
    limit : float
        Count at which the client is blocked.
    """

    def __init__(self, limit: float) -> None:
        self.limit: float = limit
        self.count: float = 0.0
        self.blocked = False
        self._shape: tuple[int, ...] | None = None

    @abstractmethod
    def step(self, pixels: npt.NDArray[np.float32]) -> float:
        """Return the value that a valid image adds to the count.

        Parameters
        ----------
        pixels : ndarray of float32, shape (H, W) or (H, W, C), in [0, 1]
            All images of a session have the same shape.

        Raises
        ------
        InvalidImage
            If the kind does not accept images of this shape. `step` must not have changed its memory.
        """

    def admit(self, image: object, shape: tuple[int, ...] | None) -> npt.NDArray[np.float32]:
        """Validate an image, given the shape of the session's first one; see `mifsim.defense.images.admit`."""
        from mifsim.defense.images import admit  # loads numba, which the import of this module must not

        return admit(image, shape)

    def memory(self) -> dict[str, Any]:
        """Return the further state that `step` depends on; by default none."""
        return {}

    def remember(self, memory: Mapping[str, Any]) -> None:  # noqa: B027  # optional: most have no memory
        """Restore the state that `memory` returned."""

    def memory_savepoint(self) -> Callable[[], None]:
        """Return a function that undoes what the next query changes in the memory; see `DurableDetector.savepoint`.

        By default it copies the whole memory. A subclass with a large one should copy only what a query overwrites.
        """
        memory = copy.deepcopy(self.memory())
        if not memory:
            return _nothing
        return lambda: self.remember(memory)

    def check(self, image: object) -> Verdict:
        """Judge one image; see `Detector.check`."""
        if self.blocked:
            return Verdict.UNSAFE
        pixels = self.admit(image, self._shape)
        self.count += self.step(pixels)
        self._shape = pixels.shape  # not before: `step` may refuse the first image
        self.blocked = self.count >= self.limit
        return Verdict.UNSAFE if self.blocked else Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:  # noqa: B027  # optional: most look at images alone
        """Ignore the model's answer; a subclass may use it."""

    def durable_counts(self) -> dict[str, Any]:
        """Return the count, and whether the client is blocked; see `DurableDetector`."""
        return {"count": self.count, "blocked": self.blocked}

    def resume_counts(self, counts: Mapping[str, Any]) -> None:
        """Continue from saved counts; see `DurableDetector`."""
        expect_keys(counts, "count", "blocked")
        self.count, self.blocked = float(counts["count"]), bool(counts["blocked"])

    def savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next query; see `DurableDetector`."""
        count, blocked, shape, undo_memory = self.count, self.blocked, self._shape, self.memory_savepoint()

        def undo() -> None:
            self.count, self.blocked, self._shape = count, blocked, shape
            undo_memory()

        return undo

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with which another process can continue; see `Detector.state_dict`."""
        return {
            "version": _STATE_VERSION,
            "count": self.count,
            "blocked": self.blocked,
            "shape": self._shape or (),
            "memory": self.memory(),
        }

    @classmethod
    def from_state(cls, config: DetectorConfig, state: Mapping[str, Any]) -> Self:
        """Return a detector that continues from a state; see `DetectorConfig.restore`.

        Raises
        ------
        ValueError
            If the state is incomplete or of another version.
        """
        if set(state) != {"version", "count", "blocked", "shape", "memory"} or state["version"] != _STATE_VERSION:
            raise ValueError(
                f"keys of the state: {sorted(map(str, state))}; expected version = {_STATE_VERSION}, count, blocked, "
                "shape and memory"
            )
        restored = config.new_detector()
        assert isinstance(restored, cls)
        restored.count, restored.blocked = float(state["count"]), bool(state["blocked"])
        restored._shape = tuple(state["shape"]) or None
        restored.remember(state["memory"])
        return restored


def _nothing() -> None:
    """Undo nothing: there is no memory."""
