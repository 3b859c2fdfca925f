"""Outputs of classifiers: confidences that add up to 1, independent confidences (sigmoid), or logits.

Which of them a model returns is a part of the study (``victim.output``). A model that returns something else is
refused, because a softmax of confidences, for instance, has the same labels but far lower confidences.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Output = Literal["softmax", "logits", "sigmoid"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
Float32s = npt.NDArray[np.float32]

SUM_TOLERANCE = 1e-3
"""Difference from 1 of the sum of a softmax in float32."""
MOST_TOLERANCE = 0.1
"""Upper bound of the tolerance, however coarse the outputs are."""
HALF_ERROR, BFLOAT_ERROR = 2.0**-11, 2.0**-8
"""Relative rounding errors of float16 and bfloat16."""
EQUAL_SUMS = 0.05
"""Relative spread of the sums of outputs up to which they are confidences multiplied by a number: percentages, rounded
to whole numbers, of ten classes add up to 95 to 105."""
STEPS = (*(10.0**decimals for decimals in range(2, 7)), 255.0, 256.0)
"""Outputs may be multiples of 1 / a step: a service rounds them to decimals, or a quantised model has 8 bits."""


def confidences(values: Float32s, output: Output) -> Float32s:
    """Return the confidence in each class.

    Parameters
    ----------
    values : ndarray of float32, shape (n, units)
        A model's outputs. One unit stands for two classes: it is the confidence in the second one, or its log-odds.
    output : {"softmax", "logits", "sigmoid"}
        What they are. The confidences of ``sigmoid`` are independent of each other: they do not add up to 1, unless
        they come from one unit.

    Returns
    -------
    ndarray of float32, shape (n, classes)
        Confidences, in [0, 1].

    Examples
    --------
    >>> confidences(np.array([[0.25]], np.float32), "sigmoid").tolist()
    [[0.75, 0.25]]
    >>> confidences(np.array([[0.0]], np.float32), "logits").tolist()
    [[0.5, 0.5]]
    """
    if output == "logits":
        if values.shape[1] == 1:
            values = np.concatenate([np.zeros_like(values), values], axis=1)
        raised = np.exp(values - values.max(axis=1, keepdims=True))
        softmax: Float32s = raised / raised.sum(axis=1, keepdims=True)
        return softmax
    if values.shape[1] == 1:
        return np.concatenate([1 - values, values], axis=1)
    return values


def sum_tolerance(values: Float32s) -> float:
    """Return by how much the sum of a softmax may differ from 1, given the precision in which it was computed.

    The precision is seen in the values themselves: those of a softmax in bfloat16, also if they were converted to
    float32 afterwards, are all numbers of bfloat16. The same holds for values that a service rounds to some decimals,
    and for a quantised model.

    Parameters
    ----------
    values : ndarray of float32, shape (n, classes)
    """
    tolerance = SUM_TOLERANCE
    # An exponential, a sum and a quotient are rounded; the last of the four errors is one to spare.
    if not np.any(np.ascontiguousarray(values, np.float32).view(np.uint32) & 0xFFFF):
        tolerance = max(tolerance, 4 * BFLOAT_ERROR)
    elif np.array_equal(values.astype(np.float16).astype(np.float32), values):
        tolerance = max(tolerance, 4 * HALF_ERROR)
    wide = values.astype(np.float64)
    for steps in STEPS:
        if np.allclose(np.rint(wide * steps) / steps, wide, rtol=1e-6, atol=1e-8):
            tolerance = max(tolerance, values.shape[1] * 0.5 / steps)
    return min(tolerance, MOST_TOLERANCE)


def kind_of(values: Float32s) -> Output:
    """Return what outputs look like: those in [0, 1] that add up to 1 are a softmax, others in [0, 1] sigmoids.

    Parameters
    ----------
    values : ndarray of float32, shape (n, units)
        The outputs for several images, finite.
    """
    if values.min() < 0 or values.max() > 1 + SUM_TOLERANCE:
        return "logits"
    if values.shape[1] == 1:
        return "sigmoid"
    sums = values.astype(np.float64).sum(axis=1)
    return "softmax" if np.all(np.abs(sums - 1) <= sum_tolerance(values)) else "sigmoid"


def wrong_output(values: Float32s, output: Output, activation: str | None = None) -> str | None:
    """Return why outputs are not what the study says, with the value that would be right; None if they are.

    Parameters
    ----------
    values : ndarray of float32, shape (n, units)
        The outputs for several images, among them images unlike those of the data.
    output : {"softmax", "logits", "sigmoid"}
        What the study says. ``softmax`` is also accepted for one sigmoid unit, whose softmax would always be 1.
    activation : str or None
        Name of the model's last activation, if it is known.
    """
    found = kind_of(values)
    units = values.shape[1]
    sums = values.sum(axis=1)
    shown = f"values from {values.min():.3g} to {values.max():.3g}, sums from {sums.min():.4g} to {sums.max():.4g}"
    named = f" and its last activation is {activation}" if activation else ""
    if found == "logits" and (total := _sum_of_multiples(values)) is not None:
        return (
            f"its outputs add up to about {total:.4g} for every image ({shown}){named}: these are multiples of "
            "confidences, such as percentages or 8 bits, not logits (accepted: confidences that add up to 1; divide "
            "them in the model or the service)"
        )
    if output == "softmax":
        if found == "logits":
            return (
                f"its output does not add up to 1 ({shown}){named}; if these are logits, set victim.output = 'logits'"
            )
        if found == "sigmoid" and units > 1:
            return (
                f"its outputs are confidences that do not add up to 1 ({shown}){named}: this is a sigmoid for each "
                "class, not a softmax; to use each of them as it is, set victim.output = 'sigmoid'"
            )
    elif output == "sigmoid":
        if found == "logits":
            return (
                f"its outputs are not those of a sigmoid, in [0, 1] ({shown}){named}; if these are logits, set "
                "victim.output = 'logits'"
            )
    elif found == "softmax" or activation == "softmax":
        return (
            f"its output is a softmax already ({shown}){named}: these are confidences, not logits; set "
            "victim.output = 'softmax'"
        )
    elif activation == "sigmoid" or (found == "sigmoid" and activation is None and _spread(values)):
        return (
            f"its outputs are those of a sigmoid ({shown}){named}: these are confidences, not logits; set "
            "victim.output = 'sigmoid'"
        )
    return None


def _sum_of_multiples(values: Float32s) -> float | None:
    """Return to what the outputs add up if they are multiples of confidences; None if they are not."""
    sums = values.astype(np.float64).sum(axis=1)
    mean = float(sums.mean())
    multiples = values.shape[1] > 1 and values.min() >= 0 and mean > 1 + MOST_TOLERANCE
    return mean if multiples and np.ptp(sums) <= 2 * EQUAL_SUMS * mean and np.ptp(values) > 0 else None


def _spread(values: Float32s) -> bool:
    """Return whether values within [0, 1] fill this interval, which logits do not do by chance."""
    return bool(values.size >= 24 and values.min() < 0.1 and values.max() > 0.9)
