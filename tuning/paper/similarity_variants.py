"""One session seen through many filters at once: every reading of the similarity that the paper's text allows.

The paper does not say which SSIM it computes, for which dynamic range, or how large the hash's image is. None of
that changes what an open-loop client sends, so one pass over its images serves all readings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from mifsim.defense import CountRule, FilterConfig, Form, ModelAnswer, Verdict
from mifsim.defense.images import admit, hash_of
from mifsim.defense.ssim_hash.recorder import SsimHashRecorder
from mifsim.defense.ssim_hash.replay import recorded_sessions
from tuning.tracedata import TraceSet

FORMS_OF_RANGE: dict[int, tuple[Form, ...]] = {1: get_args(Form), 255: ("global", "uniform")}
"""Dynamic ranges L of C1 and C2, and the forms looked at with each. The images lie in [0, 1]: 255 is a mistake that is
easily made."""

HASH_SIZES = (1, 8, 64)
"""Edges of the hash's image; 64 is larger than the digits themselves."""


class SimilarityVariant(NamedTuple):
    """One reading of the similarity.

    Attributes
    ----------
    form : {"global", "uniform", "gaussian"}
    dynamic_range : int
        The L of C1 = (0.01 L)² and C2 = (0.03 L)².
    hash_size : int
    """

    form: Form = "global"
    dynamic_range: int = 1
    hash_size: int = 8


SIMILARITY_VARIANTS = (
    *(SimilarityVariant(form, range_) for range_, forms in FORMS_OF_RANGE.items() for form in forms),
    *(SimilarityVariant(hash_size=size) for size in HASH_SIZES if size != SimilarityVariant().hash_size),
)
"""All that a pass looks through: every form with every range, and the other hashes with the filter's own form."""


class MultiVariantRecorder:
    """A guard that answers everything and keeps what every lens saw.

    SSIM for a dynamic range L of images x and y equals SSIM for a range of 1 of x / L and y / L: all its terms are
    quadratic in the images, as C1 and C2 are in L. So the wrong range needs no second implementation: the filter's
    own code looks at darkened copies.

    Parameters
    ----------
    n_b : int
        How many earlier queries each is compared with.
    """

    count = 0.0
    limit = math.inf
    blocked = False

    def __init__(self, n_b: int) -> None:
        self._watches = {range_: SsimHashRecorder(n_b, forms) for range_, forms in FORMS_OF_RANGE.items()}
        self._n_b = n_b
        self.similarity: dict[tuple[Form, int], list[npt.NDArray[np.float32]]] = {
            (form, range_): [] for range_, forms in FORMS_OF_RANGE.items() for form in forms
        }
        self.hashes: dict[int, list[float]] = {size: [] for size in HASH_SIZES}

    def check(self, image: object) -> Verdict:
        """Take in one image and return SAFE."""
        pixels = admit(image)
        for range_, watch in self._watches.items():
            watch.check(pixels if range_ == 1 else pixels / np.float32(range_))
            for form, seen in watch.last_similarities.items():
                row = np.full(self._n_b, np.nan, np.float32)
                row[: len(seen)] = seen
                self.similarity[form, range_].append(row)
        for size, found in self.hashes.items():
            found.append(hash_of(pixels, size))
        return Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Ignore it."""

    def state_dict(self) -> dict[str, Any]:
        """Raise: a recorder stays where its session is."""
        raise NotImplementedError("a recorder does not move to another process")


@dataclass(frozen=True)
class VariantRecording:
    """What all lenses saw of S sessions.

    Attributes
    ----------
    lengths : ndarray of int64, shape (S,)
        Queries of each session.
    similarity : mapping of (form, range) to ndarray of float32, shape (Q, n_b)
    hashes : mapping of hash size to ndarray of shape (Q,)
    """

    lengths: npt.NDArray[np.int64]
    similarity: dict[tuple[Form, int], npt.NDArray[np.float32]]
    hashes: dict[int, npt.NDArray[np.float64]]

    @classmethod
    def of(cls, detectors: Sequence[MultiVariantRecorder]) -> VariantRecording:
        """Gather what the guards of some sessions kept."""
        first = detectors[0]
        return cls(
            lengths=np.array([len(detector.hashes[8]) for detector in detectors], np.int64),
            similarity={
                key: np.concatenate([np.stack(detector.similarity[key]) for detector in detectors])
                for key in first.similarity
            },
            hashes={size: np.concatenate([detector.hashes[size] for detector in detectors]) for size in first.hashes},
        )

    def through(self, similarity_variant: SimilarityVariant, *, is_attack: bool, budget: int) -> TraceSet:
        """Return traces as a filter with this reading would have seen them; replay them with its form."""
        sessions = len(self.lengths)
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        spec, made = recorded_sessions(
            offsets,
            {similarity_variant.form: self.similarity[similarity_variant.form, similarity_variant.dynamic_range]},
            self.hashes[similarity_variant.hash_size],
            similarity_variant.hash_size,
        )
        return TraceSet(
            offsets=offsets,
            valid=made.valid,
            recordings={spec: made},
            budget=np.full(sessions, max(budget, int(self.lengths.max(initial=1)))),
            group=np.zeros(sessions, np.int32),
            groups=("all",),
            is_attack=np.full(sessions, is_attack),
            split=np.zeros(sessions, np.int8),
            clients=np.array([str(number) for number in range(sessions)]),
        )


def as_read(config: FilterConfig, similarity_variant: SimilarityVariant, count_rule: CountRule) -> FilterConfig:
    """Return a setting in another reading; the dynamic range is in the traces."""
    return replace(config, ssim=similarity_variant.form, hash_size=similarity_variant.hash_size, count_rule=count_rule)
