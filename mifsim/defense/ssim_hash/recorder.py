"""Recorder of the paper's filter: the hash of each image and its similarities to the previous images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.defense.detector import Verdict
from mifsim.defense.recorder import NonBlocking
from mifsim.defense.similarity import FORMS, LARGEST_HASH, Form
from mifsim.defense.view import View


class SsimHashRecorder(NonBlocking):
    """Recorder for all configurations of the paper's filter with ``n_b <= n_b_max``.

    Every valid image is SAFE. The verdicts of these configurations follow exactly from the rows: the recorder computes
    similarities and hashes with the same code as `QueryFilter`, with bit-identical results.

    Parameters
    ----------
    n_b_max : int
        Number of previous images that each image is compared with; at least 1.
    forms : sequence of {"global", "uniform", "gaussian"}
        Forms of SSIM to compute. Images must be at least as large as the largest window.
    hash_size : int
        See `FilterConfig`.
    view : View or None
        Reduction of each image before it is compared; None for none.
    repeats : bool
        Whether to record exact repeats, for configurations with `FilterConfig.repeats`.

    Attributes
    ----------
    last_similarities : dict of form to ndarray of float32, shape (min(previous images, n_b_max),)
        Similarities of the last valid image to the previous ones, **the newest first**: index 0 is the previous image.
        Empty before the first image. Each check creates new arrays.
    last_hash : float
        Hash of the last valid image, in [0, 1]; NaN before the first image.
    last_repeat_lag : int
        Number of images from the last equal one of the previous `n_b_max` images to the last valid image; 0 if there is
        none, and if repeats are not recorded.

    Raises
    ------
    ValueError
        If a parameter is not accepted.

    Examples
    --------
    >>> import numpy as np
    >>> recorder = SsimHashRecorder(2)
    >>> for level in (0.25, 0.5, 0.5):
    ...     verdict = recorder.check(np.full((8, 8), level))
    >>> verdict.name, recorder.last_hash, [round(float(s), 2) for s in recorder.last_similarities["global"]]
    ('SAFE', 0.5, [1.0, 0.8])
    """

    __slots__ = ("_buffer", "_repeats", "last_hash", "last_repeat_lag", "last_similarities")

    def __init__(
        self,
        n_b_max: int,
        forms: Sequence[Form] = ("global",),
        hash_size: int = 8,
        view: View | None = None,
        repeats: bool = False,
    ) -> None:
        from mifsim.defense.ssim_hash.buffer import Buffer  # loads numba, which the import of this module must not

        if n_b_max < 1:
            raise ValueError(f"n_b_max = {n_b_max!r}: must be a whole number of at least 1")
        if not forms or not set(forms) <= set(FORMS) or len(set(forms)) < len(forms):
            raise ValueError(f"forms = {forms!r}: must be one or more of {', '.join(FORMS)}, without duplicates")
        if not 1 <= hash_size <= LARGEST_HASH:
            raise ValueError(f"hash_size = {hash_size!r}: must be a whole number from 1 to {LARGEST_HASH}")
        self._buffer = Buffer(n_b_max, forms, hash_size, view)
        self.last_similarities: dict[Form, npt.NDArray[np.float32]] = {
            form: np.empty(0, dtype=np.float32) for form in forms
        }
        self.last_hash = float("nan")
        self.last_repeat_lag = 0
        self._repeats = repeats

    def check(self, image: object) -> Verdict:
        """Compare one image with the previous ones, enqueue it, and return SAFE.

        Raises
        ------
        InvalidImage
            If the image is not accepted (see `QueryFilter.check`). The last row does not change.
        """
        planes, hash_ = self._buffer.admit(image)
        if self._repeats:
            self.last_repeat_lag = self._buffer.repeat_lag(planes, hash_)
        self.last_similarities = self._buffer.push(planes, hash_)
        self.last_hash = hash_
        return Verdict.SAFE

    def row(self) -> Mapping[str, Any]:
        """Return the hash, the similarities and, if they are recorded, the repeats of the last valid image."""
        repeats = {"repeat_lag": self.last_repeat_lag} if self._repeats else {}
        forms = {f"ssim_{form}": row for form, row in self.last_similarities.items()}
        return {"hash": self.last_hash, **forms, **repeats}

    def __repr__(self) -> str:
        buffer = self._buffer
        return f"<SsimHashRecorder: {len(buffer)} of {buffer.capacity} images, forms {', '.join(buffer.forms)}>"
