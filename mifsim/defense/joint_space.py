"""Search space of the kind ``any-of``: the spaces of its members, searched together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mifsim.defense.any_of import AnyOfConfig, member_names
from mifsim.defense.config import DetectorConfig, Scope
from mifsim.defense.param import Choice, Param
from mifsim.defense.recording import HonestSessions
from mifsim.defense.space import SearchSpace
from mifsim.defense.view import View
from mifsim.errors import ConfigError

Value = TypeVar("Value")


@dataclass(frozen=True)
class JointSpace(SearchSpace):
    """The configurations of the kind ``any-of`` that a search may propose.

    Parameters, choices and their names in the search are those of the members, preceded by the name of the member, as
    in ``quota.queries``. Members that derive their configurations from honest sessions do so independently: each has a
    parameter ``budget`` for its own share of the false positives, and the search finds out how to share them.

    Attributes
    ----------
    members : tuple of SearchSpace
        The spaces of the members.
    """

    members: tuple[SearchSpace, ...] = ()

    @classmethod
    def joining(cls, members: Sequence[SearchSpace], scope: Scope = "session", view: View | None = None) -> JointSpace:
        """Return the joint space of members.

        Raises
        ------
        ConfigError
            If there are fewer than two, or their configurations cannot be members.
        """
        if len(members) < 2:
            raise ConfigError(
                f"of: {len(members)} given; {AnyOfConfig.kind!r} needs at least two members (accepted: a list of "
                'tables with kind and space, such as {kind = "quota"})'
            )
        names = member_names(member.kind for member in members)
        space = cls(
            AnyOfConfig.kind,
            _prefixed(names, [member.bounds for member in members]),
            _prefixed(names, [member.choices for member in members]),
            scope,
            view,
            members=tuple(members),
        )
        space.corners()
        return space

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members."""
        return member_names(member.kind for member in self.members)

    @property
    def params(self) -> dict[str, Param]:
        """Parameters of the search."""
        return self._named_params([member.params for member in self.members])

    @property
    def config_params(self) -> Mapping[str, Param]:
        """Parameters of the members' configurations."""
        return self._named_params([member.config_params for member in self.members])

    @property
    def config_choices(self) -> Mapping[str, Choice]:
        """Choices of the members' configurations."""
        return _prefixed(self.names, [member.config_choices for member in self.members])

    @property
    def derived(self) -> bool:
        """Whether the configurations of a member are derived from the honest sessions."""
        return any(member.derived for member in self.members)

    def config(self, point: Mapping[str, Any], honest: HonestSessions | None = None) -> DetectorConfig:
        """Return the configuration at a point of the search; see `SearchSpace.config`."""
        configs = []
        for place, (name, member) in enumerate(zip(self.names, self.members, strict=True)):
            keys = [*(param.search_name or key for key, param in member.params.items()), *member.choices]
            of_member = {key: point[f"{name}.{key}"] for key in keys if f"{name}.{key}" in point}
            seen = None if honest is None else honest._replace(sessions=honest.sessions.members[place])
            configs.append(member.config(of_member, seen))
        return self._joined(configs)

    def point(self, config: DetectorConfig) -> dict[str, Any]:
        """Return the point of a configuration; the inverse of `config`."""
        points = [member.point(one) for member, one in zip(self.members, config.members(), strict=True)]
        return _prefixed(self.names, points)

    def contains(self, config: DetectorConfig) -> bool:
        """Return whether each member's configuration is within the bounds of its space."""
        members = config.members()
        return [member.kind for member in members] == [member.kind for member in self.members] and all(
            space.contains(member) for space, member in zip(self.members, members, strict=True)
        )

    def corners(self) -> list[DetectorConfig]:
        """Return configurations that contain each corner of each member's space; see `SearchSpace.corners`."""
        corners = [member.corners() for member in self.members]
        # Not all combinations: recordings are those of members, so each corner of a member is needed only once.
        most = max(len(found) for found in corners)
        return [self._joined([found[place % len(found)] for found in corners]) for place in range(most)]

    def to_dict(self) -> dict[str, Any]:
        """Return an empty mapping: the spaces of the members are in tables of their own."""
        return {}

    def _joined(self, configs: Sequence[DetectorConfig]) -> AnyOfConfig:
        return AnyOfConfig(of=tuple(configs), scope=self.scope, view=self.view)

    def _named_params(self, params: Sequence[Mapping[str, Param]]) -> dict[str, Param]:
        named = _prefixed(self.names, params)
        prefixes = _prefixed(
            self.names, [dict.fromkeys(one, name) for name, one in zip(self.names, params, strict=True)]
        )
        return {
            key: replace(param, search_name=f"{prefixes[key]}.{param.search_name}") if param.search_name else param
            for key, param in named.items()
        }


def _prefixed(names: Sequence[str], tables: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    """Return the entries of the members' tables by ``member.key``."""
    return {f"{name}.{key}": value for name, table in zip(names, tables, strict=True) for key, value in table.items()}
