"""The detector of the kind ``any-of``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from mifsim.defense.detector import Detector, DurableDetector, ModelAnswer, Verdict, expect_keys
from mifsim.errors import DetectorError, InvalidImage

if TYPE_CHECKING:
    from mifsim.defense.any_of import AnyOfConfig

_STATE_VERSION = 1


class AnyOfDetector:
    """A detector that passes every image to several others, and blocks when one of them does.

    Parameters
    ----------
    config : AnyOfConfig
    """

    limit = 1.0
    """The count is the largest share of its limit that a member's count has."""

    def __init__(self, config: AnyOfConfig) -> None:
        self._configs, self._names = config.members(), config.names
        self._members: list[Detector] = [member.detector() for member in self._configs]
        self._started = False

    @property
    def count(self) -> float:
        """The largest share of its limit that a member's count has."""
        return max(float(member.count) / float(member.limit) for member in self._members)

    @property
    def blocked(self) -> bool:
        """Whether a member is blocked."""
        return any(member.blocked for member in self._members)

    def check(self, image: object) -> Verdict:
        """Judge one image; see `Detector.check`. All members see it, also if one of them blocks.

        Raises
        ------
        InvalidImage
            If a member refuses the first image, such as one that is too small for it, or the first member refuses
            another one. No member's state changes.
        DetectorError
            If members disagree whether a later image is valid. Images of one shape are valid for all or none of the
            built-in kinds.
        """
        if self.blocked:
            return Verdict.UNSAFE
        verdicts = []
        for number, member in enumerate(self._members):
            try:
                verdicts.append(member.check(image))
            except InvalidImage as error:
                if not self._started:  # members that accepted the image return to their initial state
                    self._members = [config.detector() for config in self._configs]
                elif number:
                    raise DetectorError(
                        f"{self._names[0]} accepts an image that {self._names[number]} refuses: {error}"
                    ) from error
                raise
        self._started = True
        return Verdict.UNSAFE if Verdict.UNSAFE in verdicts else Verdict.SAFE

    def observe(self, answer: ModelAnswer) -> None:
        """Pass the model's answer to all members."""
        for member in self._members:
            member.observe(answer)

    def durable_counts(self) -> dict[str, Any]:
        """Return the counts of the members by name; see `DurableDetector`."""
        return {name: member.durable_counts() for name, member in zip(self._names, self._durable(), strict=True)}

    def resume_counts(self, counts: Mapping[str, Any]) -> None:
        """Continue from saved counts; see `DurableDetector`."""
        expect_keys(counts, *self._names)
        for name, member in zip(self._names, self._durable(), strict=True):
            member.resume_counts(counts[name])

    def savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next query; see `DurableDetector`."""
        members, started = self._members, self._started
        undo_members = [member.savepoint() for member in self._durable()]

        def undo() -> None:
            self._members, self._started = members, started
            for undo_member in undo_members:
                undo_member()

        return undo

    def _durable(self) -> list[DurableDetector]:
        for name, member in zip(self._names, self._members, strict=True):
            if not isinstance(member, DurableDetector):
                raise DetectorError(f"{name} is no durable detector (expected a subclass of CountingDetector)")
        return self._members  # type: ignore[return-value]

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the members by name; see `Detector.state_dict`."""
        return {
            "version": _STATE_VERSION,
            "started": self._started,
            "members": {name: member.state_dict() for name, member in zip(self._names, self._members, strict=True)},
        }

    @classmethod
    def from_state(cls, config: AnyOfConfig, state: Mapping[str, Any]) -> Self:
        """Return a detector that continues from a state; see `DetectorConfig.restore`.

        Raises
        ------
        ValueError
            If the state is incomplete, of another version, or of other members.
        """
        if set(state) != {"version", "started", "members"} or state["version"] != _STATE_VERSION:
            raise ValueError(
                f"keys of the state: {sorted(map(str, state))}; expected version = {_STATE_VERSION}, started and "
                "members"
            )
        restored = cls(config)
        if list(state["members"]) != list(restored._names):
            raise ValueError(f"members of the state: {list(state['members'])}; expected {list(restored._names)}")
        restored._members = [
            member.restore(state["members"][name])
            for name, member in zip(restored._names, restored._configs, strict=True)
        ]
        restored._started = bool(state["started"])
        return restored
