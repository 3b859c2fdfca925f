"""The paper's filter (Section 3.3, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from mifsim.defense.detector import ModelAnswer, Verdict, expect_keys
from mifsim.errors import InvalidImage

if TYPE_CHECKING:
    from mifsim.defense.ssim_hash.config import FilterConfig

_STATE_VERSION = 1


class QueryFilter:
    """The paper's filter (Algorithm 2) for one session or client.

    Its state is a buffer of the last images and a count. Each new image is compared with the buffered images, the
    oldest first, and each match adds one to the count. If the count reaches ``l_sp``, the session is blocked: this
    image and all later ones are UNSAFE, and the buffer does not change any more. Otherwise the image is SAFE and is
    enqueued. `FilterConfig` defines the optional additions: a count that leaks, and exact repeats counted apart.

    A filter is not thread-safe. Different filters can run in parallel threads, because the kernels release the GIL.

    Parameters
    ----------
    config : FilterConfig

    Examples
    --------
    >>> import numpy as np
    >>> from mifsim import FilterConfig
    >>> detector = QueryFilter(FilterConfig(t_ssim=0.999, t_hash=1e-3, n_b=10, l_sp=2))
    >>> image = np.full((28, 28), 0.5)
    >>> [detector.check(image).name for _ in range(4)], detector.count
    (['SAFE', 'SAFE', 'UNSAFE', 'UNSAFE'], 2)
    """

    __slots__ = ("_blocked", "_buffer", "_config", "_count", "_repeat_count")

    def __init__(self, config: FilterConfig) -> None:
        from mifsim.defense.ssim_hash.buffer import Buffer  # loads numba, which the import of this module must not

        self._config = config
        self._buffer = Buffer(config.n_b, (config.ssim,), config.hash_size, config.view)
        self._count: float = 0
        self._repeat_count = 0
        self._blocked = False

    @property
    def config(self) -> FilterConfig:
        """The configuration of this filter."""
        return self._config

    @property
    def count(self) -> float:
        """Number of matches so far, less the leak; of queries with a match under ``count_rule="per_query"``.

        An integer without a leak.
        """
        return self._count

    @property
    def repeat_count(self) -> int:
        """Number of exact repeats so far; 0 if they are not counted apart."""
        return self._repeat_count

    @property
    def blocked(self) -> bool:
        """Whether all further verdicts are UNSAFE."""
        return self._blocked

    @property
    def limit(self) -> int:
        """Count of matches at which the session is blocked: ``l_sp``."""
        return self._config.l_sp

    @property
    def nbytes(self) -> int:
        """Size of the buffer's arrays, in bytes: pixels, hashes, means and contrasts; 0 before the first image."""
        return self._buffer.nbytes

    def check(self, image: object) -> Verdict:
        """Return the verdict for one image, and enqueue it if it is safe.

        Parameters
        ----------
        image : ndarray of shape (H, W) or (H, W, C), C 1 or 3
            ``uint8``, which is first divided by 255, or floats in [0, 1]. All images of a session must have the shape
            of the first one; (H, W) and (H, W, 1) are different shapes.

        Returns
        -------
        Verdict
            UNSAFE for the image at which the count reaches ``l_sp`` or the repeats ``repeats``, and for all later ones.

        Raises
        ------
        InvalidImage
            If the image contains NaN, infinity or values out of range, has another shape or type, or is smaller than
            the SSIM window. The state does not change. A blocked filter does not inspect the image.
        """
        if self._blocked:
            return Verdict.UNSAFE
        config = self._config
        planes, hash_ = self._buffer.admit(image)
        if config.repeats and self._buffer.repeat_lag(planes, hash_):
            self._repeat_count += 1
            if self._repeat_count >= config.repeats:
                self._blocked = True
                return Verdict.UNSAFE
        count = self._buffer.judge(config, self._count, planes, hash_)
        self._count = count if config.leak else int(count)
        self._blocked = count >= config.l_sp
        return Verdict.UNSAFE if self._blocked else Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Ignore the model's answer: the filter uses only the images."""

    def durable_counts(self) -> dict[str, Any]:
        """Return the count of matches, and that of exact repeats if they are counted apart; see `DurableDetector`."""
        repeats = {"repeats": self._repeat_count} if self._config.repeats else {}
        return {"count": self._count, **repeats}

    def resume_counts(self, counts: Mapping[str, Any]) -> None:
        """Continue from saved counts; see `DurableDetector`."""
        expect_keys(counts, "count", *(["repeats"] if self._config.repeats else []))
        self._set_counts(counts["count"], counts.get("repeats", 0))

    def _set_counts(self, count: Any, repeats: Any) -> None:
        config = self._config
        if not _is_count(count, config.l_sp, whole=not config.leak):
            accepted = "number" if config.leak else "whole number"
            raise ValueError(f"count = {count!r}: must be a {accepted} from 0 to l_sp = {config.l_sp}")
        if not _is_count(repeats, config.repeats, whole=True):
            raise ValueError(f"repeats = {repeats!r}: must be a whole number from 0 to {config.repeats}")
        self._count = float(count) if config.leak else int(count)
        self._repeat_count = int(repeats)
        self._blocked = count >= config.l_sp or 0 < config.repeats <= repeats

    def savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next query; see `DurableDetector`."""
        count, repeats, blocked, undo_buffer = self._count, self._repeat_count, self._blocked, self._buffer.savepoint()

        def undo() -> None:
            undo_buffer()
            self._count, self._repeat_count, self._blocked = count, repeats, blocked

        return undo

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state, with which `from_state` continues in another process.

        Returns
        -------
        dict
            ``version`` (int), ``count`` (int; float with a leak), ``shape`` (tuple of int: shape of the submitted
            images, empty before the first one) and ``images`` (ndarray of float32, shape ``(n, *view)``, the
            oldest first); ``repeats`` (int) if exact repeats are counted apart.
        """
        repeats = {"repeats": self._repeat_count} if self._config.repeats else {}
        return {
            "version": _STATE_VERSION,
            "count": self._count,
            "shape": self._buffer.submitted or (),
            "images": self._buffer.images(),
            **repeats,
        }

    @classmethod
    def from_state(cls, config: FilterConfig, state: Mapping[str, Any]) -> QueryFilter:
        """Return a filter that continues exactly where the saved one stopped.

        Parameters
        ----------
        config : FilterConfig
            Configuration of the saved filter.
        state : mapping
            Result of `state_dict`.

        Raises
        ------
        ValueError
            If the state is incomplete, of another version, or of another configuration.
        """
        keys = {"version", "count", "shape", "images", *(["repeats"] if config.repeats else [])}
        if set(state) != keys:
            raise ValueError(f"keys of the state: {sorted(map(str, state))}; expected {', '.join(sorted(keys))}")
        if state["version"] != _STATE_VERSION:
            raise ValueError(f"version = {state['version']!r}: not supported (accepted: {_STATE_VERSION})")
        images = state["images"]
        restored = cls(config)
        restored._set_counts(state["count"], state.get("repeats", 0))
        if not isinstance(images, np.ndarray) or images.dtype != np.float32 or images.ndim == 0:
            raise ValueError("images: must be a float32 array of shape (n, *shape)")
        shape = tuple(state["shape"])
        stored_shape = config.view.shape(shape) if config.view is not None and shape else shape
        if stored_shape != images.shape[1:] or (len(images) == 0) != (images.ndim == 1):
            raise ValueError(f"shape = {state['shape']!r}: not consistent with an array of images of {images.shape}")
        if len(images) > config.n_b:
            raise ValueError(f"images: {len(images)} images; accepted: at most n_b = {config.n_b}")
        for number, image in enumerate(images):
            try:
                planes, hash_ = restored._buffer.admit(image)
            except InvalidImage as error:
                raise ValueError(f"images[{number}]: {error}") from error
            restored._buffer.push(planes, hash_, compare=False)
        if shape:
            restored._buffer.submitted = shape
        return restored

    def __repr__(self) -> str:
        contents = f"{len(self._buffer)} of {self._config.n_b} images"
        if self._buffer.shape:
            contents += f" of shape {self._buffer.shape}"
        state = "blocked" if self.blocked else "open"
        counts = f"count {self._count} of {self._config.l_sp}"
        if self._config.repeats:
            counts += f", {self._repeat_count} of {self._config.repeats} repeats"
        return f"<QueryFilter {state}: {counts}, {contents}, {self._config}>"


def _is_count(value: Any, most: int, whole: bool) -> bool:
    of_kind = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    return of_kind and 0 <= float(value) <= most
