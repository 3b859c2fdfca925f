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
    """The paper's filter for one session or client: a buffer of its last images, and a count of suspicious queries.

    Algorithm 2 to the letter. A new image is compared with the buffered ones, the oldest first; each that
    is similar adds one to the count. At ``l_sp`` the session is blocked: that image and all that follow are
    UNSAFE, and nothing more is stored. Otherwise the image is enqueued, and is SAFE.

    Not for use by two threads at once; sessions in different threads do not hold each other up.

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
        """The configuration."""
        return self._config

    @property
    def count(self) -> int:
        """Suspicious queries so far (similar pairs, under ``count_rule="per_match"``)."""
        return self._count

    @property
    def blocked(self) -> bool:
        """Whether every further verdict is UNSAFE."""
        return self._count >= self._config.l_sp

    @property
    def limit(self) -> int:
        """The count at which the session is blocked: ``l_sp``."""
        return self._config.l_sp

    @property
    def nbytes(self) -> int:
        """Bytes of the session's arrays: pixels, hashes, what is kept of each image; 0 before the first."""
        return self._buffer.nbytes

    def check(self, image: object) -> Verdict:
        """Judge one image, and buffer it if it is safe.

        Parameters
        ----------
        image : ndarray of shape (H, W) or (H, W, C), C 1 or 3
            ``uint8``, which is divided by 255 before anything else, or floats in [0, 1]. The session's
            first image fixes the shape; (H, W) and (H, W, 1) are different ones.

        Returns
        -------
        Verdict
            UNSAFE from the image on that takes the count to ``l_sp``.

        Raises
        ------
        InvalidImage
            NaN, infinite, out of range, of another shape or type, or smaller than the SSIM's window. The
            state is as it was. A blocked filter does not look at the image.
        """
        if self.blocked:
            return Verdict.UNSAFE
        planes, hash_ = self._buffer.admit(image)
        self._count = self._buffer.judge(self._config, self._count, planes, hash_)
        return Verdict.UNSAFE if self.blocked else Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Ignore it: the filter looks at images alone."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that another process needs to go on with this session.

        Returns
        -------
        dict
            ``version`` (int), ``count`` (int), ``shape`` (tuple of int: the session's, empty before its first
            image) and ``images`` (ndarray of float32, shape (n, *shape of the view), the oldest first). Copies.
        """
        return {
            "version": _STATE_VERSION,
            "count": self._count,
            "shape": self._buffer.submitted or (),
            "images": self._buffer.images(),
        }

    @classmethod
    def from_state(cls, config: FilterConfig, state: Mapping[str, Any]) -> QueryFilter:
        """Restore a session: it continues exactly as it would have.

        Parameters
        ----------
        config : FilterConfig
            The configuration that the session had.
        state : mapping
            From `state_dict`.

        Raises
        ------
        ValueError
            The state is not whole, is of another version, or does not belong to such a configuration.
        """
        keys = {"version", "count", "shape", "images"}
        if set(state) != keys:
            raise ValueError(f"a filter's state has the keys {sorted(keys)}, got {sorted(map(str, state))}")
        if state["version"] != _STATE_VERSION:
            raise ValueError(f"version = {state['version']!r}: this version restores {_STATE_VERSION}")
        count, images = state["count"], state["images"]
        if isinstance(count, bool) or not isinstance(count, Integral) or not 0 <= int(count) <= config.l_sp:
            raise ValueError(f"count = {count!r}: must be a whole number from 0 to l_sp = {config.l_sp}")
        if not isinstance(images, np.ndarray) or images.dtype != np.float32 or images.ndim == 0:
            raise ValueError("images: must be a float32 array of shape (n, *shape)")
        shape = tuple(state["shape"])
        seen = config.view.shape(shape) if config.view is not None and shape else shape
        if seen != images.shape[1:] or (len(images) == 0) != (images.ndim == 1):
            raise ValueError(f"shape = {state['shape']!r}: does not belong to images of shape {images.shape}")
        if len(images) > config.n_b:
            raise ValueError(f"images: {len(images)} of them, but n_b = {config.n_b}")
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
