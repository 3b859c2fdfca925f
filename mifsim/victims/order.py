"""The order of a model's outputs that fits its answers to labelled images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mifsim.victims.accuracy import LEAST_GAIN, Bools, Labels, clearly_better

LEAST_EXCHANGED = 6
"""Number of images from which a cycle of more than two classes is kept if all of them have its answers."""


def fitting_order(labels: Labels, answers: Labels, classes: int) -> npt.NDArray[np.int64] | None:
    """Return the class that each answer seems to mean, where this is clearly another one; None if there is none.

    The confusion matrix is assigned optimally: each answer to one class, so that the sum of the recalls is highest.
    Among so many orders, one fits any answers better by chance. The assignment is therefore made on each half of the
    images and judged by the other half; and each cycle of the permutation is judged by itself, on the images of its
    classes, and kept only if it is clearly better (`clearly_better`), or if all of at least `LEAST_EXCHANGED` images,
    of this cycle or of those that are left together, have the permuted answers. A model that never answers some
    classes, or confuses some of them, keeps its order.

    Parameters
    ----------
    labels, answers : ndarray of int64, shape (n,)
        The classes of the images, and the model's answers.
    classes : int
        Number of classes.

    Returns
    -------
    ndarray of int64, shape (classes,), or None
        The class that answer k means, for every k.

    Examples
    --------
    >>> labels = np.repeat([0, 1, 2, 3], 8)
    >>> fitting_order(labels, np.array([0, 2, 1, 3])[labels], 4).tolist()
    [0, 2, 1, 3]
    >>> fitting_order(labels, labels, 4) is None
    True
    """
    half = _halves(labels)
    whole = assignment(labels, answers, classes)
    judged = np.where(
        half,
        assignment(labels[~half], answers[~half], classes)[answers],
        assignment(labels[half], answers[half], classes)[answers],
    )
    kept = np.arange(classes)
    cycles = _cycles(whole)
    for cycle in cycles:
        before, after = _right(cycle, labels, answers, judged)
        if clearly_better(labels[np.isin(labels, cycle)], before, after) or (classes > 2 and _exchanged(before, after)):
            kept[cycle] = whole[cycle]
    left = [cycle for cycle in cycles if kept[cycle[0]] == cycle[0]]
    if len(left) > 1 and _exchanged(*_right(np.concatenate(left), labels, answers, judged)):
        kept[np.concatenate(left)] = whole[np.concatenate(left)]
    return None if np.array_equal(kept, np.arange(classes)) else kept


def _right(cycle: npt.NDArray[np.int64], labels: Labels, answers: Labels, judged: Labels) -> tuple[Bools, Bools]:
    """Return which images of some classes the given and the permuted answers classify correctly."""
    members = np.isin(labels, cycle)
    return answers[members] == labels[members], judged[members] == labels[members]


def _exchanged(before: Bools, after: Bools) -> bool:
    """Return whether all of enough images have exactly the permuted answers.

    Of two classes, a model that guesses is wrong on six images in 1 of 64 cases; of more, hardly ever in this way.
    """
    return len(before) >= LEAST_EXCHANGED and not before.any() and bool(after.all())


def assignment(labels: Labels, answers: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Return the class to assign to each answer, by the Hungarian method; without evidence, an answer keeps its class.

    Parameters
    ----------
    labels, answers, classes
        See `fitting_order`.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    counts = np.zeros((classes, classes))
    np.add.at(counts, (answers, labels), 1)
    recall = counts / np.maximum(counts.sum(axis=0), 1)
    _, found = linear_sum_assignment(recall + LEAST_GAIN * np.eye(classes), maximize=True)
    return np.asarray(found, np.int64)


def _halves(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return every second image of each class."""
    half = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        half[np.flatnonzero(labels == label)[1::2]] = True
    return half


def _cycles(permutation: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Return the cycles of a permutation that have more than one element."""
    cycles, left = [], set(range(len(permutation)))
    while left:
        cycle = [min(left)]
        while (following := int(permutation[cycle[-1]])) != cycle[0]:
            cycle.append(following)
        left -= set(cycle)
        if len(cycle) > 1:
            cycles.append(np.array(cycle))
    return cycles
