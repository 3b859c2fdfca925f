"""Metrics of a set of reconstructions, as the literature on model inversion reports them.

All of them but one use the evaluator: its answers, or its features, that is, the activations before its last layer.

* Attack accuracy at 1 and at 5: the share of reconstructions whose target is the evaluator's first answer, or among its
  first five.
* Re-identification: the share of reconstructions whose nearest private image, of all classes, shows the target; in the
  evaluator's features, and by SSIM, which needs no evaluator.
* KNN distance: mean distance of a reconstruction to the nearest private image of its class.
* Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020, "Reliable Fidelity and
  Diversity Metrics for Generative Models"), within each class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.manifold import NEIGHBOURS, ClassManifold
from mifsim.statistics import clopper_pearson

Floats = npt.NDArray[np.float64]

MOST_PRIVATE = 2000
"""Private images of a class that precision, recall, density and coverage use; of more, a random selection."""
RESAMPLES = 1000
SEED = 20200713
"""Seed of the resamples and of the selection of private images."""

_BLOCK = 2**22


class Estimate(NamedTuple):
    """A metric with its 95% interval; NaN where it is not defined.

    Attributes
    ----------
    value, low, high : float
    """

    value: float
    low: float
    high: float

    @classmethod
    def share(cls, hits: npt.NDArray[np.bool_]) -> Estimate:
        """Return a share of independent cases with its exact interval (Clopper-Pearson)."""
        return cls(float(hits.mean()), *clopper_pearson(int(hits.sum()), len(hits)))


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Reconstructions:
    """What is known about the m reconstructions of a set.

    Attributes
    ----------
    targets : ndarray of int64, shape (m,)
        The class that each one shows.
    ranks : ndarray of int64, shape (m,)
        Rank of the target in the evaluator's answer, from 1.
    nearest_class : ndarray of int64, shape (m,)
        Class of the nearest private image of all classes, in the evaluator's features.
    similar_class : ndarray of int64, shape (m,)
        Class of the private image of all classes with the largest SSIM.
    distances : ndarray of float64, shape (m,)
        Distance to the nearest private image of the target class.
    features : ndarray of float64, shape (m, d)
        The evaluator's features.
    """

    targets: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.int64]
    nearest_class: npt.NDArray[np.int64]
    similar_class: npt.NDArray[np.int64]
    distances: Floats
    features: Floats

    def distinct(self) -> Reconstructions:
        """Return the set without repeated reconstructions of the same class, as from a deterministic attack."""
        rows = np.column_stack([self.targets.astype(np.float64), self.features])
        kept = np.sort(np.unique(rows, axis=0, return_index=True)[1])
        return self.rows(kept)

    def rows(self, chosen: npt.NDArray[np.int64]) -> Reconstructions:
        """Return the reconstructions at some indices."""
        return Reconstructions(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Reconstructions]) -> Reconstructions:
        """Return the union of several sets, in their order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class SetScores:
    """The metrics of a set of reconstructions.

    Attributes
    ----------
    reconstructions, classes, private_images : int
        Numbers of distinct reconstructions, of their classes, and of private images in precision to coverage.
    neighbours, recall_neighbours : int
        The k of precision, density and coverage, and that of recall, in the smallest class.
    accuracy_at_1, accuracy_at_5, identified, identified_by_ssim : Estimate
    knn_distance, precision, recall, density, coverage : Estimate
        See the module. All except recall and coverage are means over the reconstructions; these two are means over the
        classes. Accuracy at 5 is undefined for up to five classes, and the last four if a class has only one private
        image; recall also if a class has only one reconstruction.
    """

    reconstructions: int
    classes: int
    private_images: int
    neighbours: int
    recall_neighbours: int
    accuracy_at_1: Estimate
    accuracy_at_5: Estimate
    identified: Estimate
    identified_by_ssim: Estimate
    knn_distance: Estimate
    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def set_scores(
    given: Reconstructions, private: Callable[[int], Floats], classes: int, *, k: int = NEIGHBOURS
) -> SetScores:
    """Return the metrics of a set of reconstructions, which must not be empty.

    Shares of reconstructions have exact intervals; the other intervals are from a bootstrap (see `_Resamples`).

    Parameters
    ----------
    given : Reconstructions
        Repeated reconstructions of a class count once.
    private : callable
        Returns the features of the private images of a class, shape (n, d).
    classes : int
        Number of classes of the evaluator.
    k : int
        See `mifsim.manifold.NEIGHBOURS`.
    """
    items = given.distinct()
    targets = np.unique(items.targets)
    places = [np.flatnonzero(items.targets == target) for target in targets]
    manifolds = [
        ClassManifold.of(_selected(private(int(target))), items.features[rows], k)
        for target, rows in zip(targets, places, strict=True)
    ]
    neighbours = min(manifold.neighbours for manifold in manifolds)
    recall_neighbours = min(manifold.recall_neighbours for manifold in manifolds)
    resamples = _Resamples.of([len(rows) for rows in places])
    precise = np.concatenate([manifold.precise for manifold in manifolds])
    return SetScores(
        reconstructions=len(items.targets),
        classes=len(targets),
        private_images=sum(len(manifold.inside) for manifold in manifolds),
        neighbours=neighbours,
        recall_neighbours=recall_neighbours,
        accuracy_at_1=Estimate.share(items.ranks == 1),
        accuracy_at_5=Estimate.share(items.ranks <= 5) if classes > 5 else UNDEFINED,
        identified=Estimate.share(items.nearest_class == items.targets),
        identified_by_ssim=Estimate.share(items.similar_class == items.targets),
        knn_distance=resamples.mean([items.distances[rows] for rows in places]),
        precision=Estimate.share(precise) if neighbours else UNDEFINED,
        recall=resamples.covered([manifold.around for manifold in manifolds]) if recall_neighbours else UNDEFINED,
        density=resamples.mean([manifold.densities for manifold in manifolds]) if neighbours else UNDEFINED,
        coverage=resamples.covered([manifold.inside for manifold in manifolds]) if neighbours else UNDEFINED,
    )


@dataclass(frozen=True)
class _Resamples:
    """Bootstrap resamples of reconstructions, `RESAMPLES` of them with a fixed seed.

    The private images are all of the victim's and the attacked classes are given, so neither is resampled: the
    reconstructions are, within each class. If a class has only one, the classes are resampled instead. A resample
    repeats reconstructions and so covers fewer private images than the set does. Therefore only the spread of the
    resamples about their mean is used, widened by √(m / (m − 1)) for m resampled items. An interval has no width if all
    resamples give the same value, such as a coverage of 0.

    Attributes
    ----------
    counts : list of ndarray of float32, shape (RESAMPLES, m)
        For each class, how often a resample has each of its m reconstructions; empty if classes are resampled.
    sizes : ndarray of float64, shape (classes,)
        Number of reconstructions of each class.
    """

    counts: list[npt.NDArray[np.float32]]
    sizes: Floats

    @classmethod
    def of(cls, sizes: Sequence[int]) -> _Resamples:
        rng = np.random.default_rng(SEED)
        counts = []
        if min(sizes) > 1:
            counts = [rng.multinomial(m, np.full(m, 1 / m), RESAMPLES).astype(np.float32) for m in sizes]
        return cls(counts, np.array(sizes, np.float64))

    def mean(self, values: Sequence[Floats]) -> Estimate:
        """Return the mean over all reconstructions of a value that each has; `values` has one array for each class."""
        of_class = np.array([part.mean() for part in values])
        resampled = [counts @ part / len(part) for counts, part in zip(self.counts, values, strict=bool(self.counts))]
        return self._estimate(of_class, resampled, self.sizes)

    def covered(self, contains: Sequence[npt.NDArray[np.bool_]]) -> Estimate:
        """Return the mean over classes of the share of n private images that a reconstruction covers.

        Parameters
        ----------
        contains : sequence of ndarray of bool, shape (n, m)
            For each class, whether reconstruction j covers private image i.
        """
        of_class = np.array([part.any(axis=1).mean() for part in contains])
        resampled = [_covered(*pair) for pair in zip(self.counts, contains, strict=bool(self.counts))]
        found = self._estimate(of_class, resampled, np.ones(len(contains)))
        return Estimate(found.value, found.low, min(1.0, found.high))

    def _estimate(self, of_class: Floats, resampled: Sequence[Floats], weights: Floats) -> Estimate:
        """Return a weighted mean over classes, with the interval that its values in the resamples give."""
        value = float(weights @ of_class / weights.sum())
        deviations = np.zeros(RESAMPLES)
        if resampled:
            for weight, size, values in zip(weights / weights.sum(), self.sizes, resampled, strict=True):
                deviations += weight * math.sqrt(size / (size - 1)) * (values - values.mean())
        elif len(of_class) > 1:
            many = len(of_class)
            chosen = np.random.default_rng(SEED).integers(0, many, (RESAMPLES, many))
            means = (weights * of_class)[chosen].sum(axis=1) / weights[chosen].sum(axis=1)
            deviations = math.sqrt(many / (many - 1)) * (means - means.mean())
        else:
            return Estimate(value, math.nan, math.nan)
        low, high = value + np.quantile(deviations, [0.025, 0.975])
        return Estimate(value, max(0.0, float(low)), float(high))


def _selected(features: Floats) -> Floats:
    """Return at most `MOST_PRIVATE` of the rows, always the same ones, drawn at random."""
    if len(features) <= MOST_PRIVATE:
        return features
    return features[np.sort(np.random.default_rng(SEED).permutation(len(features))[:MOST_PRIVATE])]


def _covered(counts: npt.NDArray[np.float32], contains: npt.NDArray[np.bool_]) -> Floats:
    """Return the share of n private images with at least one of m reconstructions, for each row of counts (r, m)."""
    shares = np.empty(len(counts))
    by_item = contains.T.astype(np.float32)
    step = max(1, _BLOCK // max(1, len(contains)))
    for start in range(0, len(counts), step):
        shares[start : start + step] = ((counts[start : start + step] @ by_item) > 0).mean(axis=1)
    return shares
