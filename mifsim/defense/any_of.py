"""The kind ``any-of``: several detectors, the first of which to block blocks.

Each member watches the same queries with a state of its own, so up to the block it does what it would do alone. The
outcome of a session is therefore the earliest block of the members. A member is replayed from its own recording, and
``any-of`` needs none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from mifsim.defense.config import DetectorConfig
from mifsim.defense.fitted import write_fits
from mifsim.defense.kinds import read_config
from mifsim.defense.recording import Outcome, RecordedSessions
from mifsim.errors import ConfigError

if TYPE_CHECKING:
    from mifsim.defense.any_of_detector import AnyOfDetector

_KEY = re.compile(r"[A-Za-z_][\w.-]*( = |: )")
"""Start of a message that names a key."""


@dataclass(frozen=True)
class AnyOfConfig(DetectorConfig):
    """Configuration of several detectors; a session is blocked when one of them blocks it.

    Attributes
    ----------
    of : tuple of DetectorConfig
        The members, at least two: one alone would be the same detector under a second name. They are neither of the
        kind ``any-of`` nor of the kind ``none``. All have the scope of this configuration. A member without a view has
        the view of this configuration.
    scope, view
        See `DetectorConfig`; keyword-only.

    Raises
    ------
    ConfigError
        If a member is not accepted. The message names it by its place, from 0, as in ``of.1.queries``.

    Notes
    -----
    A member has the name of its kind, or ``kind.2`` for the second one of a kind. These names precede the names of its
    parameters in searches and tables, as in ``quota.queries``.

    Examples
    --------
    >>> import numpy as np
    >>> from mifsim.defense.quota import QuotaConfig
    >>> from mifsim.defense.ssim_hash.config import FilterConfig
    >>> similar = FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=5, l_sp=2)
    >>> detector = AnyOfConfig(of=(similar, QuotaConfig(queries=5))).detector()
    >>> rng = np.random.default_rng(0)
    >>> [detector.check(rng.random((8, 8))).name for _ in range(6)][-2:]  # different images: the quota blocks
    ['SAFE', 'UNSAFE']
    """

    of: tuple[DetectorConfig, ...] = field(
        metadata={
            "accepted": "list of tables",
            "description": "configurations of the members, at least two; each with its kind and parameters",
        }
    )

    kind: ClassVar[str] = "any-of"
    views_itself: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.of
        if not isinstance(given, (list, tuple)) or not all(isinstance(member, DetectorConfig) for member in given):
            raise ConfigError(f"of = {given!r}: must be a list of configurations of detectors")
        for place, member in enumerate(given):
            check_member(f"of.{place}", member.kind)
            if member.scope not in ("session", self.scope):
                raise ConfigError(
                    f"of.{place}.scope = {member.scope!r}: members have the scope of any-of, which is {self.scope!r}"
                )
        if len(given) < 2:
            raise ConfigError(
                f"of: {len(given)} given; needs at least two members (for a single detector, use its kind itself)"
            )
        # Stored without what they inherit, so that `replace` can change the scope and the view of all members.
        kept = (replace(one, scope="session", view=None if one.view == self.view else one.view) for one in given)
        object.__setattr__(self, "of", tuple(kept))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members."""
        return member_names(member.kind for member in self.of)

    def members(self) -> tuple[DetectorConfig, ...]:
        """Return the members with the scope and the view that they inherit."""
        return self._members

    @cached_property
    def _members(self) -> tuple[DetectorConfig, ...]:
        return tuple(
            replace(member, scope=self.scope, view=self.view if member.view is None else member.view)
            for member in self.of
        )

    def forgets_safely(self, queries: int) -> bool:
        """Return whether all members forget safely; see `DetectorConfig.forgets_safely`."""
        return all(member.forgets_safely(queries) for member in self.of)

    def one_by_one(self) -> bool:
        """Return whether it holds for all members; see `DetectorConfig.one_by_one`."""
        return all(member.one_by_one() for member in self.of)

    def uses_answers(self) -> bool:
        """Return whether a member uses the model's answers."""
        return any(member.uses_answers() for member in self.of)

    def with_members(self, members: Sequence[DetectorConfig]) -> Self:
        """Return the configuration with other members."""
        changed: dict[str, Any] = {"of": tuple(members)}
        return replace(self, **changed)

    def _with_member(self, place: int, member: DetectorConfig) -> Self:
        members = self.members()
        return self.with_members((*members[:place], member, *members[place + 1 :]))

    def new_detector(self) -> AnyOfDetector:
        """Return a detector in its initial state."""
        from mifsim.defense.any_of_detector import AnyOfDetector

        return AnyOfDetector(self)

    def replayable(self) -> bool:
        """Return whether all members can be replayed."""
        return all(member.replayable() for member in self.of)

    def recorded_by(self, find: Callable[[DetectorConfig], RecordedSessions]) -> RecordedSessions:
        """Return the recordings of the members as one; see `DetectorConfig.recorded_by`."""
        found = tuple(find(member) for member in self.members())
        return RecordedSessions(found[0].offsets, found[0].valid, {}, members=found)

    def replay(self, sessions: RecordedSessions) -> Outcome:
        """Return the earliest block of the members in each session, and the nearness of the member nearest to a block.

        Raises
        ------
        ValueError
            If `sessions` is not the result of `recorded_by`, or a recording lacks what a member needs.
        """
        pairs = zip(self.members(), sessions.members, strict=True)
        outcomes = [member.replay(recorded) for member, recorded in pairs]
        blocked_at = np.stack([outcome.blocked_at for outcome in outcomes])
        never = np.iinfo(np.int64).max
        earliest = np.where(blocked_at == 0, never, blocked_at).min(axis=0)
        return Outcome(
            np.where(earliest == never, 0, earliest).astype(np.int64),
            np.stack([outcome.nearness for outcome in outcomes]).max(axis=0),
        )

    def parameter_values(self) -> Mapping[str, Any]:
        """Return the values of the members' parameters and choices, as in ``quota.queries``."""
        named = zip(self.names, self.of, strict=True)
        return {f"{name}.{key}": value for name, one in named for key, value in one.parameter_values().items()}

    def stricter(self, step: float) -> Self:
        """Return a copy whose members all block more (`step` above 1) or less; see `DetectorConfig.stricter`."""
        return self.with_members([member.stricter(step) for member in self.members()])

    def conservative(self, steps: Sequence[float]) -> list[Self]:
        """Return copies that block less: one for each step with all members relaxed, then those of each member."""
        copies = [self.stricter(1 / step) for step in steps]
        for place, member in enumerate(self.members()):
            copies.extend(self._with_member(place, copy) for copy in member.conservative(steps))
        return copies

    def ablations(self) -> Mapping[str, DetectorConfig]:
        """Return the configuration without each member, and without each part of a member, as in ``evidence.noisy``.

        Without one of two members, it is the configuration of the other one.
        """
        found: dict[str, DetectorConfig] = {}
        members = self.members()
        for place, (name, member) in enumerate(zip(self.names, members, strict=True)):
            others = members[:place] + members[place + 1 :]
            found[name] = others[0] if len(others) == 1 else self.with_members(others)
            for part, variant in member.ablations().items():
                found[f"{name}.{part}"] = self._with_member(place, variant)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return kind, members, scope and view as plain values for TOML and JSON; see `DetectorConfig.to_dict`."""
        members = [{key: value for key, value in one.to_dict().items() if key != "scope"} for one in self.of]
        view = {} if self.view is None else {"view": self.view.to_dict()}
        return {"kind": self.kind, "of": members, "scope": self.scope, **view}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Create a configuration from a mapping; its ``of`` is a list of mappings with ``kind`` and parameters.

        Raises
        ------
        ConfigError
            If a key or value is not accepted. The message names the key, such as ``of.1.queries``.
        """
        rest = dict(table)
        if "of" in rest:
            given = rest["of"]
            if not isinstance(given, (list, tuple)) or not all(isinstance(item, Mapping) for item in given):
                raise ConfigError(
                    f'of = {given!r}: must be a list of tables, one for each member, such as {{kind = "quota", '
                    "queries = 300}"
                )
            rest["of"] = tuple(_read_member(f"of.{place}", item) for place, item in enumerate(given))
        return super().from_dict(rest)

    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Write the configuration and, beside it, the files of its members' fits; see `DetectorConfig.save`."""
        write_fits(self, Path(path).parent)
        super().save(path, extra)


def member_names(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the names of members of these kinds.

    Examples
    --------
    >>> member_names(["quota", "nearest", "quota"])
    ('quota', 'nearest', 'quota.2')
    """
    names: list[str] = []
    seen: list[str] = []
    for kind in kinds:
        seen.append(kind)
        number = seen.count(kind)
        names.append(kind if number == 1 else f"{kind}.{number}")
    return tuple(names)


def check_member(key: str, kind: str) -> None:
    """Raise a `ConfigError` if a kind cannot be a member.

    Parameters
    ----------
    key : str
        Key of the member, for the message.
    kind : str
    """
    if kind == AnyOfConfig.kind:
        raise ConfigError(f"{key}.kind = {kind!r}: a member cannot have members (add them to the outer list)")
    if kind == "none":
        raise ConfigError(f"{key}.kind = {kind!r}: it never blocks, so it cannot be a member")


def within(key: str, message: object) -> str:
    """Return an error message about a table as one about the table that contains it under a key.

    Examples
    --------
    >>> within("of.1", "queries = 0: must be at least 1")
    'of.1.queries = 0: must be at least 1'
    >>> within("of.1", "'quota' needs queries; missing: queries")
    "of.1: 'quota' needs queries; missing: queries"
    """
    return f"{key}.{message}" if _KEY.match(str(message)) else f"{key}: {message}"


def _read_member(key: str, table: Mapping[str, Any]) -> DetectorConfig:
    if "kind" not in table:
        raise ConfigError(f"{key}.kind: missing (expected the kind of the member)")
    if "scope" in table:
        raise ConfigError(f"{key}.scope = {table['scope']!r}: members have the scope of any-of (accepted: scope there)")
    try:
        return read_config(table)
    except ConfigError as error:
        raise ConfigError(within(key, error)) from None
