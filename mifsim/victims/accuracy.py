"""Accuracy of a model on the users' images, compared with chance and with the accuracy under another reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from mifsim.statistics import clopper_pearson

Labels = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MOST_IMAGES = 1000
"""Maximum number of images of which the accuracy of a user's model is measured."""
LEAST_SKILL = 0.1
"""Share of the way from chance to 100% that a model must possibly have gone, or else its accuracy is that of chance."""
LEAST_GAIN = 0.2
"""Increase of the mean recall by which another reading must be better, and largest loss of one class."""
FEWEST_TO_TELL = 8
"""Number of images below which no reading can be clearly better than another one, by `LEAST_EVIDENCE`."""
LEAST_EVIDENCE = 0.005
"""Significance level of the comparison of two readings; eight images that only one of them classifies correctly."""


@dataclass(frozen=True)
class Accuracy:
    """The number of images that a model classifies correctly, and the number expected by chance.

    Attributes
    ----------
    right, images : int
        Numbers of correctly classified images, and of all images.
    chance : float
        The accuracy that the same answers would have, on average, if they were assigned to the images at random:
        Σ p_k q_k, for the share p_k of images of class k and the share q_k of answers k. For classes of equal size it
        is 1 / classes, and for a model that always answers one class, it is the share of this class. A model with the
        same recall for every class is better than this, also where the share of the largest class is higher still.
    """

    right: int
    images: int
    chance: float

    @classmethod
    def of(cls, labels: Labels, answers: Labels, classes: int) -> Accuracy:
        """Compare the answers of a model with the labels of n images, both of shape (n,).

        Examples
        --------
        >>> Accuracy.of(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0]), 2)
        Accuracy(right=3, images=4, chance=0.75)
        """
        expected = int(np.bincount(labels, minlength=classes) @ np.bincount(answers, minlength=classes))
        return cls(int(np.sum(labels == answers)), len(labels), expected / len(labels) ** 2)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Accuracy:
        """Return the accuracy that `facts` describes."""
        images = int(facts["test_images"])
        return cls(round(float(facts["test_accuracy"]) * images), images, float(facts["chance"]))

    @property
    def value(self) -> float:
        """The share of correctly classified images."""
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """The exact (Clopper-Pearson) 95% interval of the accuracy."""
        return clopper_pearson(self.right, self.images)

    @property
    def verdict(self) -> Literal["better", "unclear", "chance"]:
        """Whether the model beats chance.

        ``better``: the interval lies above chance. ``chance``: the accuracy is at most that of chance, or the interval
        contains it and lies below a tenth of the way from there to 100%. ``unclear``: the accuracy is above chance, but
        the images are too few to tell.
        """
        low, high = self.interval
        if low > self.chance:
            return "better"
        if self.value <= self.chance + 1e-12 or high < self.chance + LEAST_SKILL * (1 - self.chance):
            return "chance"
        return "unclear"

    def facts(self) -> dict[str, Any]:
        """Return the accuracy, its interval and that of chance for ``run.json``."""
        return {
            "test_accuracy": self.value,
            "test_images": self.images,
            "test_accuracy_interval": list(self.interval),
            "chance": self.chance,
            "beats_chance": self.verdict,
        }

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2%} of {self.images:,} images (95% interval {low:.1%} to {high:.1%})"


def chosen_images(images: int, most: int = MOST_IMAGES) -> Labels:
    """Return the indices of at most `most` of a subset's images: always the same ones, drawn at random.

    Examples
    --------
    >>> chosen_images(3).tolist(), len(chosen_images(5000))
    ([0, 1, 2], 1000)
    """
    return np.sort(np.random.default_rng(0).permutation(images)[:most])


def mean_recall(labels: Labels, right: Bools) -> float:
    """Return the mean, over the classes present, of the share of a class's images that are classified correctly."""
    present = np.bincount(labels)
    return float(np.mean((np.bincount(labels, weights=right) / np.maximum(present, 1))[present > 0]))


def clearly_better(labels: Labels, before: Bools, after: Bools) -> bool:
    """Return whether a second reading of a model is clearly better than a first one, for every class.

    Three conditions hold if it is: the mean recall is higher by `LEAST_GAIN`; no class loses more than this share of
    its images, or one image; and of the images that only one of the readings classifies correctly, so many are those of
    the second one that the exact sign test rejects equality at `LEAST_EVIDENCE`. The first two are means over classes:
    of images of which 90% show one class, a reading that always answers this class is not better than one that
    recognises 70% of either class.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        The classes of the images.
    before, after : ndarray of bool, shape (n,)
        Whether the first and the second reading classify each image correctly.
    """
    if not len(labels) or mean_recall(labels, after) - mean_recall(labels, before) < LEAST_GAIN:
        return False
    lost = np.bincount(labels, weights=before) - np.bincount(labels, weights=after)
    if np.any(lost > np.maximum(1, LEAST_GAIN * np.bincount(labels))):
        return False
    gains, losses = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    # P(at least `gains` of the differing images favour the second reading by chance), a binomial tail with p = 1/2.
    return bool(gains and special.bdtrc(gains - 1, gains + losses, 0.5) <= LEAST_EVIDENCE)
