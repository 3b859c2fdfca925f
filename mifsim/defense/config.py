"""Base class of detector configurations, which defines a kind of detector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from mifsim.defense.detector import Detector, DetectorBatch, DurableDetector, NoDefense
from mifsim.defense.one_by_one import OneByOneBatch
from mifsim.defense.param import Choice, Param
from mifsim.defense.recording import (
    Column,
    HonestSessions,
    Outcome,
    RecordedSessions,
    Recorder,
    RecordingSpec,
    SessionWeights,
    SweptSums,
)
from mifsim.defense.serializable import Serializable
from mifsim.defense.view import View, ViewedDetector
from mifsim.errors import ConfigError

Scope = Literal["session", "client"]
SCOPES: tuple[Scope, ...] = ("session", "client")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(Serializable, ABC):
    """Configuration of a detector; each subclass defines a kind.

    A subclass is a frozen dataclass with one field per parameter. It defines `kind`, `params` and `choices`, and
    creates detectors in `new_detector`. If its verdicts can be computed from a recording, it also defines the recorded
    data (`recording`, `columns`, `recorder`) and computes the verdicts in `replay`. A kind without `replay` runs live
    in every trial of a search. `replay_swept` and `reference_values` are optional: with them, a search evaluates all
    values of some parameters at once, and its result can be compared with an exhaustive search.

    Attributes
    ----------
    scope : {"session", "client"}
        Lifetime of a detector's state. With ``"client"`` it is kept across the sessions of a client, and a blocked
        client stays blocked.
    view : View or None
        Reduction of the images before they are compared; None for none.
    """

    scope: Scope = field(
        default="session",
        metadata={
            "accepted": '"session" or "client"',
            "description": "whether a detector's state belongs to one session, or to a client and all its sessions",
        },
    )
    view: View | None = field(
        default=None,
        metadata={
            "accepted": "table",
            "description": 'reduction of images before detection, such as {size = 64, colour = "grey"}; absent: none',
        },
    )

    kind: ClassVar[str]
    params: ClassVar[Mapping[str, Param]] = {}
    """Numerical parameters of the search, by the name of their field."""
    choices: ClassVar[Mapping[str, Choice]] = {}
    """Categorical parameters of the search, by the name of their field."""
    search_params: ClassVar[Mapping[str, Param]] = {}
    """Parameters that a search varies instead of `params`; `from_search` computes a configuration from their values."""
    views_itself: ClassVar[bool] = False
    """Whether the kind's detector and recorder apply the view; otherwise they receive reduced images."""
    swept: ClassVar[tuple[str, ...]] = ()
    """Integer parameters for which `replay_swept` replays all values at once."""
    reference_steps: ClassVar[Mapping[str, int]] = {}
    """Default number of values that an exhaustive search tries of each of the other parameters."""

    def __post_init__(self) -> None:
        """Validate scope and view. A subclass validates its own fields and calls this method."""
        if self.scope not in SCOPES:
            raise ConfigError(f"scope = {self.scope!r}: must be one of {', '.join(SCOPES)}")
        object.__setattr__(self, "view", View.parse(self.view))

    # Methods that a kind defines.

    @abstractmethod
    def new_detector(self) -> Detector:
        """Return a detector in its initial state, for images to which the view has been applied."""

    def batch(self, sessions: int, shape: tuple[int, ...]) -> DetectorBatch | None:
        """Return the detectors of several new sessions, which judge an image of each in one call.

        Parameters
        ----------
        sessions : int
        shape : tuple of int
            Shape of all images.

        Returns
        -------
        DetectorBatch or None
            None if each session needs a detector of its own. By default the detectors judge their images in turn if
            `one_by_one` allows it.
        """
        return OneByOneBatch([self.detector() for _ in range(sessions)]) if self._in_turn() else None

    def _in_turn(self) -> bool:
        """Return whether `one_by_one` holds for the detectors of this class: not above the class that defines them."""
        order = type(self).__mro__
        stated, made = (next(c for c in order if name in c.__dict__) for name in ("one_by_one", "new_detector"))
        return issubclass(stated, made) and self.one_by_one() and not self.uses_answers()

    def one_by_one(self) -> bool:
        """Return whether `batch` may call the detectors of several sessions in turn; by default not.

        They must ignore the model's answers, and raise no error but `InvalidImage`.
        """
        return False

    def recording(self) -> Mapping[str, Any]:
        """Return the recorder options that this configuration needs, as plain JSON values."""
        return {}

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> Mapping[str, Column]:
        """Return the columns that a recorder with these options records of each query; by default none."""
        return {}

    @classmethod
    def recorder(cls, options: Mapping[str, Any]) -> Recorder:
        """Return a new recorder; the default records only which queries are valid."""
        return NoDefense()

    @classmethod
    def merge(cls, first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return options whose recording serves both configurations; None if they need separate recordings."""
        return first if first == second else None

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Compute from a recording, exactly, what this configuration does to each session.

        A kind that does not override this method cannot be replayed.
        """
        raise NotImplementedError(f"the kind {self.kind!r} defines no replay; run it live")

    def replay_swept(self, sessions: RecordedSessions, weights: SessionWeights, most: Mapping[str, int]) -> SweptSums:
        """Replay all values of the `swept` parameters at once, and return sums over groups of sessions.

        Parameters
        ----------
        sessions : RecordedSessions
        weights : SessionWeights
            Group and query budget of each session.
        most : mapping of str to int
            Largest value of each swept parameter; all values from 1 on are replayed. The other parameters are those
            of this configuration.

        Returns
        -------
        SweptSums
            Arrays of shape ``(G, *most)``.
        """
        raise NotImplementedError(f"the kind {self.kind!r} defines no replay_swept")

    @classmethod
    def from_search(
        cls, values: Mapping[str, float], chosen: Mapping[str, Any], honest: HonestSessions, **shared: Any
    ) -> Self:
        """Return the configuration at a point of a search over `search_params`.

        Parameters
        ----------
        values : mapping of str to float
            Values of `search_params`.
        chosen : mapping
            Values of `choices`.
        honest : HonestSessions
            The honest sessions of the search split, from which parameters may be derived, such as quantiles.
        shared
            `scope`, `view` and, for a fitted kind, `fit`.
        """
        raise NotImplementedError(f"the kind {cls.kind!r} defines search_params, but not from_search")

    @classmethod
    def example(cls, chosen: Mapping[str, Any], **shared: Any) -> Self:
        """Return any configuration with these choices, for a kind with `search_params`.

        Its recording must contain all that other configurations with these choices need.
        """
        raise NotImplementedError(f"the kind {cls.kind!r} defines search_params, but not example")

    @classmethod
    def reference_values(
        cls,
        sessions: RecordedSessions,
        chosen: Mapping[str, Any],
        bounds: Mapping[str, tuple[float, float]],
        steps: Mapping[str, int],
    ) -> Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """Return the values that an exhaustive search tries of each parameter in `reference_steps`, ascending.

        Parameters
        ----------
        sessions : RecordedSessions
        chosen : mapping
            Values of `choices`.
        bounds : mapping of str to (float, float)
            Smallest and largest value of each parameter.
        steps : mapping of str to int
            Number of values of each parameter.
        """
        raise NotImplementedError(f"the kind {cls.kind!r} defines no reference_values")

    # Methods that follow from these definitions.

    @classmethod
    def searched(cls) -> Mapping[str, Param]:
        """Return the parameters that a search varies."""
        return cls.search_params or cls.params

    def replayable(self) -> bool:
        """Return whether the configuration can be replayed."""
        return type(self).replay is not DetectorConfig.replay

    def members(self) -> tuple[DetectorConfig, ...]:
        """Return the configurations whose fits and recordings this one needs: itself alone, unless it is composed."""
        return (self,)

    def with_members(self, members: Sequence[DetectorConfig]) -> DetectorConfig:
        """Return the configuration with others in place of those that `members` returns."""
        (member,) = members
        return member

    def recorded_by(self, find: Callable[[DetectorConfig], RecordedSessions]) -> RecordedSessions:
        """Return the recording for `replay`, given a function that finds the recording of each of the `members`."""
        return find(self)

    def parameter_values(self) -> Mapping[str, Any]:
        """Return the values of all parameters and choices by their names in a search space."""
        return {name: getattr(self, name) for name in (*self.params, *self.choices)}

    def detector(self) -> Detector:
        """Return a detector in its initial state for one session or client; it takes images as submitted."""
        return self._viewed(self.new_detector())

    def restore(self, state: Mapping[str, Any]) -> Detector:
        """Return a detector that continues from a state saved by `Detector.state_dict`.

        Raises
        ------
        ValueError
            If the state is incomplete, of another version, or of another configuration.
        """
        restored = type(self.new_detector()).from_state  # type: ignore[attr-defined]
        if self.view is None or self.views_itself:
            detector: Detector = restored(self, state)
            return detector
        if set(state) != {"shape", "inner"}:
            raise ValueError(f"keys of the state: {sorted(state)}; expected shape and inner for a detector with a view")
        viewed = self._viewed(restored(self, state["inner"]))
        assert isinstance(viewed, ViewedDetector)
        return viewed.restored(state)

    def resume(self, counts: Mapping[str, Any]) -> DurableDetector:
        """Return a detector that continues from the counts of another one, without its images.

        Parameters
        ----------
        counts : mapping
            Result of `DurableDetector.durable_counts`.

        Raises
        ------
        ValueError
            If the counts are incomplete or of another configuration.
        ConfigError
            If the kind's detector is no `DurableDetector`.
        """
        detector = self.detector()
        if not isinstance(detector, DurableDetector):
            raise ConfigError(
                f"kind = {self.kind!r}: its detector cannot continue from its counts (expected the methods "
                "durable_counts, resume_counts and savepoint; a subclass of CountingDetector has them)"
            )
        detector.resume_counts(counts)
        return detector

    def forgets_safely(self, queries: int) -> bool:
        """Return whether a session whose images are forgotten has no larger count than one whose images are kept.

        It is true of kinds that count the earlier queries to which a query is similar. If it is false, a server that
        is restarted in the middle of a session may block an honest client that it would not have blocked otherwise.

        Parameters
        ----------
        queries : int
            Largest number of queries of a session.
        """
        return True

    def uses_answers(self) -> bool:
        """Return whether verdicts depend on the model's answers (`Detector.observe`); by default they do not."""
        return False

    def _viewed(self, detector: Detector) -> Detector:
        return detector if self.view is None or self.views_itself else ViewedDetector(detector, self.view)

    def recording_spec(self) -> RecordingSpec:
        """Return the recording that a replay of this configuration needs."""
        return RecordingSpec.of(self.kind, self.recording(), self.view)

    def stricter(self, step: float) -> Self:
        """Return a copy that blocks more (`step` above 1) or less (`step` below 1).

        All parameters with a known `Param.strictness` that are in use change; see `Param.moved`.
        """
        return self._moved(step, [name for name, param in self.params.items() if param.strictness])

    def conservative(self, steps: Sequence[float]) -> list[Self]:
        """Return copies that block less: one per step with relaxed thresholds, then some with one other number relaxed.

        The others are integers, and optional parameters that are in use: a study may have fixed their values.

        Parameters
        ----------
        steps : sequence of float
            Above 1; the larger, the less a copy blocks.
        """
        relaxed = {name: param for name, param in self.params.items() if param.strictness}
        thresholds = [name for name, param in relaxed.items() if not param.whole and param.off is None]
        copies = [self._moved(1 / step, thresholds) for step in steps] if thresholds else []
        for name, param in relaxed.items():
            if name not in thresholds:
                changes: list[dict[str, Any]] = [{name: value} for value in param.relaxed(getattr(self, name), steps)]
                copies.extend(replace(self, **change) for change in changes)
        return copies

    def _moved(self, step: float, names: Sequence[str]) -> Self:
        moved: dict[str, Any] = {name: self.params[name].moved(getattr(self, name), step) for name in names}
        return replace(self, **moved)

    def ablations(self) -> Mapping[str, DetectorConfig]:
        """Return the configuration without each of its parts, by name; empty for a detector of a single part.

        A calibration reports the figures of these variants, which show what each part contributes.
        """
        return {}
