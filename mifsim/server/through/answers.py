"""Answers of a guard to queries, as far as the response policy shows them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.study.wire import ResponsePolicy
from mifsim.victims.engines.inference_protocol import ProtocolError


class GuardAnswer(NamedTuple):
    """The answer to one query, as far as the response policy shows it.

    Attributes
    ----------
    label : int
    confidence : ndarray of float32, shape (classes,), or None
        NaN where a confidence is withheld; None: only the label is shown.
    """

    label: int
    confidence: npt.NDArray[np.float32] | None


def read_answer(values: npt.NDArray[np.float64], policy: ResponsePolicy, classes: int) -> GuardAnswer:
    """Return the answer that consists of some numbers.

    Raises
    ------
    ProtocolError
        If the response policy shows something else.
    """
    if policy.kind == "label":
        if len(values) != 1 or not 0 <= values[0] < classes or values[0] != int(values[0]):
            raise ProtocolError(f"has {len(values)} numbers; expected a class from 0 to {classes - 1}")
        return GuardAnswer(int(values[0]), None)
    shown = min(policy.digits, classes) if policy.kind == "top" else classes
    if len(values) != classes or np.count_nonzero(np.isfinite(values)) != shown:
        raise ProtocolError(
            f"has {np.count_nonzero(np.isfinite(values))} of {len(values)} confidences; expected {shown} of {classes}"
        )
    confidence = values.astype(np.float32)
    return GuardAnswer(int(np.nanargmax(confidence)), confidence)
