"""Search space of a detector: the kind, the bounds of its parameters, and the fixed scope and view."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mifsim.defense.config import DetectorConfig, Scope
from mifsim.defense.fitted import FittedConfig
from mifsim.defense.kinds import config_class
from mifsim.defense.param import Choice, Param
from mifsim.defense.recording import HonestSessions
from mifsim.defense.view import View
from mifsim.errors import ConfigError

_SLACK = 1e-12
"""Tolerance of bounds: a value computed from its distance to the pole has a rounding error."""


@dataclass(frozen=True)
class SearchSpace:
    """The configurations that a search may propose, as plain data for processes without the kind's code.

    Attributes
    ----------
    kind : str
        Name of the kind of detector.
    bounds : mapping of str to (float, float)
        Smallest and largest value of each parameter of the search. An optional parameter (`Param.off`) is one of them
        only if the study names it; otherwise it is off in every configuration.
    choices : mapping of str to tuple
        Allowed values of each choice. A choice with a single value is not a dimension of the search. An optional one
        (`Choice.optional`) is one of them only if the study names it.
    scope : {"session", "client"}
        See `DetectorConfig`.
    view : View or None
        See `DetectorConfig`.
    fit : str
        See `mifsim.defense.fitted.FittedConfig`; empty for other kinds.
    """

    kind: str
    bounds: Mapping[str, tuple[float, float]]
    choices: Mapping[str, tuple[Any, ...]]
    scope: Scope = "session"
    view: View | None = None
    fit: str = ""

    @classmethod
    def parse(
        cls, kind: str, given: Mapping[str, Any], scope: Scope = "session", view: object = None, fit: str = ""
    ) -> SearchSpace:
        """Create a search space from a study's ``[tuning.space]``; other parameters get the defaults of the kind.

        Optional parameters that it does not name are not part of the search.

        Raises
        ------
        ConfigError
            If a key or value is not accepted. The message names key, value and what is accepted.
        """
        found = config_class(kind)
        if not found.searched():
            raise ConfigError(f"kind = {kind!r}: has no parameter to search (accepted: a kind with parameters)")
        known = [*found.searched(), *found.choices]
        for key in given:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1, 0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"space.{key}: {kind!r} has no such parameter{hint} (accepted: {', '.join(known)})")
        choices = {
            name: _values(found, name, given.get(name))
            for name, choice in found.choices.items()
            if not choice.optional or name in given
        }
        for name, param in found.searched().items():
            if name in given and not _available(param, choices):
                raise ConfigError(
                    f"space.{name} = {given[name]!r}: without effect (expected {param.requires} = [true], too)"
                )
        space = cls(
            kind,
            {
                name: _bounds(found, name, given.get(name, {}))
                for name, param in found.searched().items()
                if (param.off is None or name in given) and _available(param, choices)
            },
            choices,
            scope,
            View.parse(view),
            fit,
        )
        space.corners()  # raises for combinations that the kind rejects, before any trial runs
        return space

    @property
    def config_class(self) -> type[DetectorConfig]:
        """Configuration class of the kind."""
        return config_class(self.kind)

    @property
    def params(self) -> dict[str, Param]:
        """Parameters of the search."""
        return {name: self.config_class.searched()[name] for name in self.bounds}

    @property
    def config_params(self) -> Mapping[str, Param]:
        """Parameters of the configurations in the space: those of the search; those of the kind if `derived`."""
        if not self.derived:
            return self.params
        every = self.config_class.params
        return {name: param for name, param in every.items() if _available(param, self.choices)}

    @property
    def config_choices(self) -> Mapping[str, Choice]:
        """Choices of the configurations in the space."""
        return {name: self.config_class.choices[name] for name in self.choices}

    @property
    def reference_steps(self) -> dict[str, int]:
        """Default number of values that an exhaustive search tries of each parameter that is not swept."""
        return {name: steps for name, steps in self.config_class.reference_steps.items() if name in self.bounds}

    @property
    def searched_choices(self) -> dict[str, tuple[Any, ...]]:
        """Choices with more than one value."""
        return {name: values for name, values in self.choices.items() if len(values) > 1}

    @property
    def shared(self) -> dict[str, Any]:
        """Values that all configurations of the space share: scope, view and, for a fitted kind, fit."""
        shared: dict[str, Any] = {"scope": self.scope, "view": self.view}
        return {**shared, "fit": self.fit} if issubclass(self.config_class, FittedConfig) else shared

    @property
    def replayable(self) -> bool:
        """Whether the configurations in the space can be replayed."""
        return self.corners()[0].replayable()

    @property
    def derived(self) -> bool:
        """Whether configurations are derived from the honest sessions; see `DetectorConfig.from_search`."""
        return bool(self.config_class.search_params)

    def config(self, point: Mapping[str, Any], honest: HonestSessions | None = None) -> DetectorConfig:
        """Return the configuration at a point of the search.

        Parameters
        ----------
        point : mapping
            The distance of each parameter from its pole, by `Param.search_name`, and the value of each searched choice.
        honest : HonestSessions, optional
            The honest sessions of the search split; required if the space is `derived`.
        """
        values = {
            name: param.value(point[param.search_name or name], above=self.bounds[name][1] > param.pole)
            for name, param in self.params.items()
        }
        values = {name: round(value) if self.params[name].whole else value for name, value in values.items()}
        chosen = {name: point.get(name, options[0]) for name, options in self.choices.items()}
        if not self.derived:
            every: dict[str, Any] = {**values, **chosen, **self.shared}
            return self.config_class(**every)
        if honest is None:
            raise ValueError(f"kind = {self.kind!r}: its configurations are derived from honest sessions; none given")
        return self.config_class.from_search(values, chosen, honest, **self.shared)

    def point(self, config: DetectorConfig) -> dict[str, Any]:
        """Return the point of a configuration; the inverse of `config`."""
        point: dict[str, Any] = {
            param.search_name or name: param.distance(getattr(config, name))
            for name, param in self.config_params.items()
        }
        return {**point, **{name: getattr(config, name) for name in self.searched_choices}}

    def contains(self, config: DetectorConfig) -> bool:
        """Return whether a configuration is within the bounds, up to rounding errors; true for a `derived` space."""
        if self.derived:
            return True
        unnamed = config.params.keys() - self.bounds.keys()
        if any(getattr(config, name) != config.params[name].off for name in unnamed):
            return False
        return all(
            low - _SLACK * bool(config.params[name].pole)
            <= getattr(config, name)
            <= high + _SLACK * bool(config.params[name].pole)
            for name, (low, high) in self.bounds.items()
        )

    def corners(self) -> list[DetectorConfig]:
        """Return the configurations at the corners; a recording that serves them serves the whole space."""
        cls = self.config_class
        if self.derived:
            return [cls.example(chosen, **self.shared) for chosen in corner_points({}, self.choices)]
        return [cls(**point, **self.shared) for point in corner_points(self.bounds, self.choices)]

    def to_dict(self) -> dict[str, Any]:
        """Return the space in the form of ``[tuning.space]``, including all defaults of what is searched."""
        bounds: dict[str, Any] = {name: {"min": low, "max": high} for name, (low, high) in self.bounds.items()}
        return {**bounds, **{name: list(values) for name, values in self.choices.items()}}


def _bounds(cls: type[DetectorConfig], name: str, given: object) -> tuple[float, float]:
    param = cls.searched()[name]
    if not isinstance(given, Mapping) or set(given) - {"min", "max"}:
        raise ConfigError(
            f"space.{name} = {given!r}: must be a table such as {{min = {param.low}, max = {param.high}}}"
        )
    low, high = given.get("min", param.low), given.get("max", param.high)
    if problem := param.problem(low, high):
        raise ConfigError(f"space.{name}.{problem}")
    return (int(low), int(high)) if param.whole else (float(low), float(high))


def _available(param: Param, choices: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether the choice that a parameter requires can be true."""
    return not param.requires or any(choices.get(param.requires, ()))


def _values(cls: type[DetectorConfig], name: str, given: object) -> tuple[Any, ...]:
    choice = cls.choices[name]
    if given is None:
        return (choice.default,)
    values: Sequence[Any] = given if isinstance(given, (list, tuple)) else [given]
    if not values:
        raise ConfigError(f"space.{name} = []: needs at least one value (accepted: {choice.words})")
    for value in values:
        if not choice.accepts(value):
            raise ConfigError(f"space.{name}: {value!r} is not a valid value (accepted: {choice.words})")
    if len(set(values)) < len(values):
        raise ConfigError(f"space.{name} = {list(values)}: each may be given once; expected different values")
    return tuple(values)


def corner_points(
    params: Mapping[str, tuple[float, float]], choices: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    """Return the corners of a search space: all combinations of the parameters' bounds and the choices' values."""
    names = [*params, *choices]
    values: list[Sequence[Any]] = [tuple(dict.fromkeys(bounds)) for bounds in params.values()]
    values += [tuple(options) for options in choices.values()]
    return [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
