"""The paper's filter (Section 3.3, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from mifsim.defense.detector import ModelAnswer, Verdict
from mifsim.errors import InvalidImage

if TYPE_CHECKING:
    from mifsim.defense.ssim_hash.config import FilterConfig

_STATE_VERSION = 1


class QueryFilter:
    """The paper's filter (Algorithm 2) for one session or client.

    Its state is a buffer of the last images and a count. Each new image is compared with the buffered images, the
    oldest first, and each match adds one to the count. If the count reaches ``l_sp``, the session is blocked: this
    image and all later ones are UNSAFE, and the buffer does not change any more. Otherwise the image is SAFE and is
    enqueued.

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

    __slots__ = ("_buffer", "_config", "_count")

    def __init__(self, config: FilterConfig) -> None:
        from mifsim.defense.ssim_hash.buffer import Buffer  # loads numba, which the import of this module must not

        self._config = config
        self._buffer = Buffer(config.n_b, (config.ssim,), config.hash_size, config.view)
        self._count = 0

    @property
    def config(self) -> FilterConfig:
        """The configuration of this filter."""
        return self._config

    @property
    def count(self) -> int:
        """Number of matches so far; of queries with a match under ``count_rule="per_query"``."""
        return self._count

    @property
    def blocked(self) -> bool:
        """Whether all further verdicts are UNSAFE."""
        return self._count >= self._config.l_sp

    @property
    def limit(self) -> int:
        """Count at which the session is blocked: ``l_sp``."""
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
            UNSAFE for the image at which the count reaches ``l_sp``, and for all later ones.

        Raises
        ------
        InvalidImage
            If the image contains NaN, infinity or values out of range, has another shape or type, or is smaller than
            the SSIM window. The state does not change. A blocked filter does not inspect the image.
        """
        if self.blocked:
            return Verdict.UNSAFE
        planes, hash_ = self._buffer.admit(image)
        self._count = self._buffer.judge(self._config, self._count, planes, hash_)
        return Verdict.UNSAFE if self.blocked else Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Ignore the model's answer: the filter uses only the images."""

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state, with which `from_state` continues in another process.

        Returns
        -------
        dict
            ``version`` (int), ``count`` (int), ``shape`` (tuple of int: shape of the submitted images, empty before
            the first one) and ``images`` (ndarray of float32, shape (n, *shape of the view), the oldest first).
        """
        return {
            "version": _STATE_VERSION,
            "count": self._count,
            "shape": self._buffer.submitted or (),
            "images": self._buffer.images(),
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
        keys = {"version", "count", "shape", "images"}
        if set(state) != keys:
            raise ValueError(f"keys of the state: {sorted(map(str, state))}; expected {', '.join(sorted(keys))}")
        if state["version"] != _STATE_VERSION:
            raise ValueError(f"version = {state['version']!r}: not supported (accepted: {_STATE_VERSION})")
        count, images = state["count"], state["images"]
        if isinstance(count, bool) or not isinstance(count, Integral) or not 0 <= int(count) <= config.l_sp:
            raise ValueError(f"count = {count!r}: must be a whole number from 0 to l_sp = {config.l_sp}")
        if not isinstance(images, np.ndarray) or images.dtype != np.float32 or images.ndim == 0:
            raise ValueError("images: must be a float32 array of shape (n, *shape)")
        shape = tuple(state["shape"])
        stored_shape = config.view.shape(shape) if config.view is not None and shape else shape
        if stored_shape != images.shape[1:] or (len(images) == 0) != (images.ndim == 1):
            raise ValueError(f"shape = {state['shape']!r}: not consistent with an array of images of {images.shape}")
        if len(images) > config.n_b:
            raise ValueError(f"images: {len(images)} images; accepted: at most n_b = {config.n_b}")
        restored = cls(config)
        restored._count = int(count)
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
        return f"<QueryFilter {state}: count {self._count} of {self._config.l_sp}, {contents}, {self._config}>"
