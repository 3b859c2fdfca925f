"""The recorder of the paper's filter: what any configuration would have compared, for the recording."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.defense.detector import ModelAnswer, Verdict
from mifsim.defense.similarity import FORMS, LARGEST_HASH, Form
from mifsim.defense.view import View


class SsimHashRecorder:
    """A detector that finds every valid image SAFE and tells how similar it is to the ones before.

    From its rows the verdicts of every configuration with ``n_b <= n_b_max`` follow exactly: it computes what
    `QueryFilter` computes, with the same code on the same kept values, to the last bit.

    Parameters
    ----------
    n_b_max : int
        How many earlier queries each is compared with.
    forms : sequence of {"global", "uniform", "gaussian"}
        The forms of SSIM to compute. The largest window among them is the least size of an image.
    hash_size : int
        See `FilterConfig`.
    view : View or None
        What of an image is compared.

    Attributes
    ----------
    last_similarities : dict of form to ndarray of float32, shape (min(images seen before, n_b_max),)
        Of the last valid image with the ones before it, **the newest first**: index 0 is the previous query.
        Empty before the first. Each check makes new arrays.
    last_hash : float
        The last valid image's hash; NaN before the first.

    Examples
    --------
    >>> import numpy as np
    >>> recorder = SsimHashRecorder(2)
    >>> for level in (0.25, 0.5, 0.5):
    ...     verdict = recorder.check(np.full((8, 8), level))
    >>> verdict.name, recorder.last_hash, [round(float(s), 2) for s in recorder.last_similarities["global"]]
    ('SAFE', 0.5, [1.0, 0.8])
    """

    __slots__ = ("_buffer", "last_hash", "last_similarities")

    count = 0.0
    limit = math.inf
    blocked = False

    def __init__(
        self, n_b_max: int, forms: Sequence[Form] = ("global",), hash_size: int = 8, view: View | None = None
    ) -> None:
        from mifsim.defense.ssim_hash.buffer import Buffer  # loads numba, which the import of this module must not

        if n_b_max < 1:
            raise ValueError(f"n_b_max = {n_b_max!r}: must be a whole number of at least 1")
        if not forms or not set(forms) <= set(FORMS) or len(set(forms)) < len(forms):
            raise ValueError(f"forms = {forms!r}: must be some of {', '.join(FORMS)}, each once")
        if not 1 <= hash_size <= LARGEST_HASH:
            raise ValueError(f"hash_size = {hash_size!r}: must be a whole number from 1 to {LARGEST_HASH}")
        self._buffer = Buffer(n_b_max, forms, hash_size, view)
        self.last_similarities: dict[Form, npt.NDArray[np.float32]] = {
            form: np.empty(0, dtype=np.float32) for form in forms
        }
        self.last_hash = float("nan")

    def check(self, image: object) -> Verdict:
        """Take in one image and return SAFE.

        Raises
        ------
        InvalidImage
            As `QueryFilter.check` does; the last row stays.
        """
        planes, hash_ = self._buffer.admit(image)
        self.last_similarities = self._buffer.push(planes, hash_)
        self.last_hash = hash_
        return Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Ignore it."""

    def row(self) -> Mapping[str, Any]:
        """Return the hash and the similarities of the last valid image."""
        return {"hash": self.last_hash, **{f"ssim_{form}": row for form, row in self.last_similarities.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Raise: a recorder stays where its session is."""
        raise NotImplementedError("a recorder does not move to another process")

    def __repr__(self) -> str:
        buffer = self._buffer
        return f"<SsimHashRecorder: {len(buffer)} of {buffer.capacity} images, forms {', '.join(buffer.forms)}>"
