"""Similarity variants: record a session once for every form of similarity that the paper's text allows.

The paper does not say which SSIM it computes, for which dynamic range, or how large the image of the hash is. None of
these choices changes what an open-loop client sends, so one run records all variants.
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
"""SSIM forms to record by dynamic range L of C1 and C2. The images lie in [0, 1], so 255 is a (common) mistake."""

HASH_SIZES = (1, 8, 64)
"""Edges of the hash's image, in pixels; 64 is larger than the digits."""


class SimilarityVariant(NamedTuple):
    """One form of similarity.

    Attributes
    ----------
    form : {"global", "uniform", "gaussian"}
        Form of the SSIM.
    dynamic_range : int
        The L of C1 = (0.01 L)² and C2 = (0.03 L)².
    hash_size : int
        Edge of the hash's image, in pixels.
    """

    form: Form = "global"
    dynamic_range: int = 1
    hash_size: int = 8


SIMILARITY_VARIANTS = (
    *(SimilarityVariant(form, range_) for range_, forms in FORMS_OF_RANGE.items() for form in forms),
    *(SimilarityVariant(hash_size=size) for size in HASH_SIZES if size != SimilarityVariant().hash_size),
)
"""All recorded variants: every SSIM form of every dynamic range, and the other hash sizes with the default form."""


class MultiVariantRecorder:
    """A detector that blocks nothing and records the similarities of every variant.

    The SSIM of images x and y for a dynamic range L equals the SSIM of x / L and y / L for a range of 1: all its terms
    are quadratic in the images, as C1 and C2 are in L. The filter's implementation therefore serves every range, on
    scaled images.

    Parameters
    ----------
    n_b : int
        Number of earlier queries that each query is compared with.
    """

    count = 0.0
    limit = math.inf
    blocked = False

    def __init__(self, n_b: int) -> None:
        self._recorders = {range_: SsimHashRecorder(n_b, forms) for range_, forms in FORMS_OF_RANGE.items()}
        self._n_b = n_b
        self.similarity: dict[tuple[Form, int], list[npt.NDArray[np.float32]]] = {
            (form, range_): [] for range_, forms in FORMS_OF_RANGE.items() for form in forms
        }
        self.hashes: dict[int, list[float]] = {size: [] for size in HASH_SIZES}

    def check(self, image: object) -> Verdict:
        """Record one image and return SAFE."""
        pixels = admit(image)
        for range_, recorder in self._recorders.items():
            recorder.check(pixels if range_ == 1 else pixels / np.float32(range_))
            for form, similarities in recorder.last_similarities.items():
                row = np.full(self._n_b, np.nan, np.float32)
                row[: len(similarities)] = similarities
                self.similarity[form, range_].append(row)
        for size, hashes in self.hashes.items():
            hashes.append(hash_of(pixels, size))
        return Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Ignore the model's answer."""

    def state_dict(self) -> dict[str, Any]:
        """Raise: a recorder stays where its session is."""
        raise NotImplementedError("a recorder does not move to another process")


@dataclass(frozen=True)
class VariantRecording:
    """Recorded similarities and hashes of S sessions with Q queries in all variants.

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
    def of(cls, recorders: Sequence[MultiVariantRecorder]) -> VariantRecording:
        """Concatenate the recorders of some sessions."""
        first = recorders[0]
        return cls(
            lengths=np.array([len(recorder.hashes[8]) for recorder in recorders], np.int64),
            similarity={
                key: np.concatenate([np.stack(recorder.similarity[key]) for recorder in recorders])
                for key in first.similarity
            },
            hashes={size: np.concatenate([recorder.hashes[size] for recorder in recorders]) for size in first.hashes},
        )

    def traces(self, similarity_variant: SimilarityVariant, *, is_attack: bool, budget: int) -> TraceSet:
        """Return the traces of one variant; replay them with a configuration from `apply_variant`."""
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


def apply_variant(config: FilterConfig, similarity_variant: SimilarityVariant, count_rule: CountRule) -> FilterConfig:
    """Return a configuration with the variant's form and hash size; its dynamic range is part of the traces."""
    return replace(config, ssim=similarity_variant.form, hash_size=similarity_variant.hash_size, count_rule=count_rule)
