"""Configuration of the kind ``evidence``: leaky counts of flags that a few features of each query raise.

Each flag compares one feature of a query with a radius. A count for each flag rises by one when the flag is raised, and
falls by the flag's leak at every query. The client is blocked when any count reaches its limit::

    count(q) = max(0, count(q - 1) + [feature(q) is beyond the radius] - leak)

The features use principal components of the server's own training images (the fit): ``neighbours`` is the distance to
the k-th nearest of the client's earlier queries, ``average`` the distance from the mean image in standard deviations,
``noisy`` a robust estimate of the noise, ``smooth`` the share of the image that the components do not explain. Queries
of attacks differ from natural images in these features: they are many small variations of one image, averages of a
class, or noisy. ``repeats`` counts exact repeats, which ``neighbours`` leaves out, and ``queries`` counts all queries.
The optional ``naturalness`` is the log-odds that an image is an outlier, by a classifier that is trained with the fit
(`mifsim.defense.evidence.naturalness`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from mifsim.defense.evidence.flags import BELOW, FLAGS, LEARNED, Flag
from mifsim.defense.evidence.params import CHOICES, LARGEST_K, LARGEST_MEMORY, PARAMS, SEARCH_PARAMS
from mifsim.defense.fit import Fit
from mifsim.defense.fitted import FittedConfig
from mifsim.defense.param import Choice, Param
from mifsim.defense.recording import Column, Outcome, RecordedSessions
from mifsim.errors import ConfigError

if TYPE_CHECKING:
    from mifsim.defense.evidence.detector import EvidenceDetector, EvidenceRecorder
    from mifsim.defense.recording import HonestSessions


@dataclass(frozen=True)
class EvidenceConfig(FittedConfig):
    """Configuration of the kind ``evidence``. A flag whose limit is 0 is off; at least one is on.

    Attributes
    ----------
    k : int
        ``neighbours`` is the distance to the k-th nearest earlier query, 1 to 10. Honest users send a few very similar
        images, such as shots of one subject.
    memory : int
        Number of earlier different queries of the client that are compared, 1 to 16,384; the oldest is forgotten.
    neighbours_radius, neighbours_leak, neighbours_limit : float
        The flag is raised if the distance, in the first 30 components, is below the radius.
    average_radius, average_leak, average_limit : float
        Raised if the norm of the first 20 coordinates, in standard deviations, is below the radius.
    noisy_radius, noisy_leak, noisy_limit : float
        Raised if the estimated standard deviation of the noise is above the radius.
    smooth_radius, smooth_leak, smooth_limit : float
        Raised if the share of the squared distance from the mean image outside of the 60 components is below the
        radius.
    repeats_leak, repeats_limit : float
        Raised by an image with the same coordinates as one of the compared queries.
    queries_limit : float
        Raised by every query, without a leak: a quota.
    naturalness : bool
        Whether the fit contains the classifier; `fit_to` then trains it.
    naturalness_radius, naturalness_leak, naturalness_limit : float
        Raised if the log-odds that the image is an outlier are above the radius.
    fit, scope, view
        See `FittedConfig`; keyword-only.

    Raises
    ------
    ConfigError
        If a value is not accepted, or no flag is on.

    References
    ----------
    The noise estimate is the median form of Immerkaer, *Fast Noise Variance Estimation* (1996). The k-nearest-neighbour
    distance is that of Chen, Carlini and Wagner, *Stateful Detection of Black-Box Adversarial Attacks* (2019), in
    another space.
    """

    k: int = 5
    memory: int = 1000
    neighbours_radius: float = 0.0
    neighbours_leak: float = 0.05
    neighbours_limit: float = 0.0
    average_radius: float = 0.0
    average_leak: float = 0.05
    average_limit: float = 0.0
    noisy_radius: float = 0.0
    noisy_leak: float = 0.05
    noisy_limit: float = 0.0
    smooth_radius: float = 0.0
    smooth_leak: float = 0.05
    smooth_limit: float = 0.0
    repeats_leak: float = 0.05
    repeats_limit: float = 0.0
    queries_limit: float = 0.0
    naturalness: bool = False
    naturalness_radius: float = 0.0
    naturalness_leak: float = 0.05
    naturalness_limit: float = 0.0

    kind: ClassVar[str] = "evidence"
    params: ClassVar[Mapping[str, Param]] = PARAMS
    choices: ClassVar[Mapping[str, Choice]] = CHOICES
    search_params: ClassVar[Mapping[str, Param]] = SEARCH_PARAMS

    def __post_init__(self) -> None:
        super().__post_init__()
        set_ = object.__setattr__
        set_(self, "k", _whole("k", self.k, LARGEST_K))
        set_(self, "memory", _whole("memory", self.memory, LARGEST_MEMORY))
        for name, param in self.params.items():
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not param.least <= float(value) <= param.most:
                raise ConfigError(f"{name} = {value!r}: must be a number, {param.accepted}")
            if not math.isfinite(float(value)):
                raise ConfigError(f"{name} = {value!r}: must be finite")
            set_(self, name, float(value))
        if not isinstance(self.naturalness, bool):
            raise ConfigError(f"naturalness = {self.naturalness!r}: must be true or false")
        if self.naturalness_limit and not self.naturalness:
            raise ConfigError(
                f"naturalness_limit = {self.naturalness_limit:g}: needs naturalness = true, and a classifier in the fit"
            )
        if not self.enabled():
            raise ConfigError("no flag is on (expected a limit above 0 for at least one of " + ", ".join(FLAGS) + ")")

    def enabled(self) -> tuple[Flag, ...]:
        """Return the flags that are on, in the order of `FLAGS`."""
        found = []
        for name in FLAGS:
            limit = getattr(self, f"{name}_limit")
            if not limit:
                continue
            radius = getattr(self, f"{name}_radius", 0.5)  # repeats and queries are 0 or 1
            leak = getattr(self, f"{name}_leak", 0.0)
            found.append(Flag(name, radius, name not in BELOW, leak, limit))
        return tuple(found)

    def rules(self) -> tuple[npt.NDArray[Any], ...]:
        """Return radii, whether each flag is raised above its radius, leaks and limits, each of shape (F,)."""
        radii, above, leaks, limits = list(zip(*self.enabled(), strict=True))[1:]
        return np.array(radii), np.array(above), np.array(leaks), np.array(limits)

    def without(self, flag: str) -> Self | None:
        """Return the configuration with a flag switched off; None if no other flag is on."""
        if [one.name for one in self.enabled()] == [flag]:
            return None
        changed: dict[str, Any] = {f"{flag}_limit": 0.0}
        return replace(self, **changed)

    def conservative(self, steps: Sequence[float]) -> list[Self]:
        """Return copies that block less; see `DetectorConfig.conservative`.

        At first only the limits are relaxed. They are extremes of the sessions of the search split, and so less certain
        than the radii, which are quantiles of its queries. A quota stays: the longest session is less uncertain.
        """
        limits = [f"{flag.name}_limit" for flag in self.enabled() if flag.name != "queries"]
        return [*(self._moved(1 / step, limits) for step in steps), *super().conservative(steps)]

    def ablations(self) -> Mapping[str, Self]:
        """Return the configuration without each flag that is on."""
        variants = {flag.name: self.without(flag.name) for flag in self.enabled()}
        return {name: variant for name, variant in variants.items() if variant is not None}

    def forgets_safely(self, queries: int) -> bool:
        """Return whether no flag can be raised more often in a session whose earlier queries are forgotten.

        ``neighbours`` can: an exact repeat does not raise it, but if the first of two equal queries is forgotten, the
        second one is no repeat. So can ``repeats`` in a session of more queries than the memory holds: a repeat is not
        stored again, so the memory of the whole session forgets it earlier.
        """
        return not self.neighbours_limit and (not self.repeats_limit or queries <= self.memory)

    def one_by_one(self) -> bool:
        """Return true; see `DetectorConfig.one_by_one`."""
        return True

    def new_detector(self) -> EvidenceDetector:
        """Return a detector in its initial state."""
        from mifsim.defense.evidence.detector import EvidenceDetector

        return EvidenceDetector(self)

    def recording(self) -> Mapping[str, Any]:
        """Return the fit, the numbers of neighbours, the memories, and whether the classifier is used."""
        learned = {LEARNED: True} if self.naturalness else {}
        return {"fit": self.fit, "k": (self.k,), "memory": (self.memory,), **learned}

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        """Return the columns: features of the image, and the distances and repeats for each memory."""
        learned = (LEARNED,) if options.get(LEARNED) else ()
        found = {name: Column("float32") for name in ("average", "noisy", "smooth", *learned)}
        for memory in options["memory"]:
            found[f"repeats_{memory}"] = Column("float32")
            found.update({f"neighbours_{memory}_{k}": Column("float32") for k in options["k"]})
        return found

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> EvidenceRecorder:
        """Return a recorder in its initial state."""
        from mifsim.defense.evidence.detector import EvidenceRecorder

        return EvidenceRecorder(options["fit"], options["k"], options["memory"], bool(options.get(LEARNED)))

    @classmethod
    def merge(cls, first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the numbers of neighbours and the memories of both; None if the fits differ."""
        if first["fit"] != second["fit"]:
            return None
        learned = {LEARNED: True} if first.get(LEARNED) or second.get(LEARNED) else {}
        both = {key: tuple(sorted({*first[key], *second[key]})) for key in ("k", "memory")}
        return {"fit": first["fit"], **both, **learned}

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Replay recorded sessions under this configuration."""
        from mifsim.defense.evidence.replay import follow

        return follow(sessions, self)

    @classmethod
    def from_search(
        cls, values: Mapping[str, float], chosen: Mapping[str, Any], honest: HonestSessions, **shared: Any
    ) -> Self:
        """Return the configuration at a point of the search; see `mifsim.defense.evidence.search`."""
        from mifsim.defense.evidence.search import config_at

        return config_at(cls, values, chosen, honest, shared)

    @classmethod
    def example(cls, chosen: Mapping[str, Any], **shared: Any) -> Self:
        """Return a configuration with all flags on; see `DetectorConfig.example`."""
        flags = [flag for flag in FLAGS if flag != LEARNED or chosen.get(LEARNED)]
        every: dict[str, Any] = {**chosen, **{f"{flag}_limit": 1.0 for flag in flags}, **shared}
        return cls(**every)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; see `DetectorConfig.to_dict`. Without the classifier, its parameters are left out."""
        plain = super().to_dict()
        return plain if self.naturalness else {key: plain[key] for key in plain if not key.startswith(LEARNED)}

    def make_fit(
        self, images: npt.NDArray[np.float32], hashes: npt.NDArray[np.uint64], facts: Mapping[str, Any]
    ) -> Fit:
        """Compute the principal components and, if it is used, train the classifier."""
        fit = super().make_fit(images, hashes, facts)
        if not self.naturalness:
            return fit
        from mifsim.defense.evidence import naturalness

        return Fit({**fit.facts, **self.fit_options()}, {**fit.arrays, **naturalness.train(images, fit.arrays)})

    def fit_options(self) -> Mapping[str, Any]:
        """Return the version of the classifier, if it is used."""
        from mifsim.defense.evidence.naturalness import TRAINING_VERSION

        return {LEARNED: TRAINING_VERSION} if self.naturalness else {}

    def fit_problem(self, fit: Fit) -> str:
        """Return an error message for components or trees that the detector cannot use; see `FittedConfig`."""
        from mifsim.defense.evidence import naturalness

        return super().fit_problem(fit) or (naturalness.problem(fit.arrays) if self.naturalness else "")


def _whole(name: str, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= int(value) <= most:
        raise ConfigError(f"{name} = {value!r}: must be a whole number from 1 to {most}")
    return int(value)
