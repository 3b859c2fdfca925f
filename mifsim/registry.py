"""Names that a study may use, and what stands behind them: shipped, installed as entry points, or given by a plug-in.

A registry maps a name to ``"module:attribute"`` (imported when first asked for) or to an object that a plug-in
registered. Entry points of the registry's group are looked up when a name is not known otherwise, or when all names
are listed.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

from mifsim.errors import PluginError, UserError

GROUPS = ("attacks", "users", "evasions", "detectors", "datasets", "victims")
"""What can be added from outside; the entry-point group of each is ``mifsim.<name>``."""

_REGISTRIES: dict[str, Registry] = {}


class Registry:
    """The names of one kind of thing.

    Parameters
    ----------
    group : str
        One of `GROUPS`.
    noun : str
        What one entry is called in messages, such as ``"attack"``.
    shipped : mapping of str to object
        Name to ``"module:attribute"``, or to the entry itself.
    base : str or None
        ``"module:class"`` that every entry must derive from; None: an entry is any callable.
    check : callable, optional
        Says what is wrong with an entry of that base (an empty string: nothing).
    """

    def __init__(
        self,
        group: str,
        noun: str,
        shipped: Mapping[str, Any],
        base: str | None = None,
        check: Callable[[str, Any], str] = lambda name, entry: "",
    ) -> None:
        assert group in GROUPS, f"{group!r} is not one of {GROUPS}"
        self.group, self.noun = group, noun
        self._places: dict[str, str] = {name: place for name, place in shipped.items() if isinstance(place, str)}
        self._loaded: dict[str, Any] = {name: entry for name, entry in shipped.items() if name not in self._places}
        self._origin: dict[str, str] = {}
        self._base = base
        self._check = check
        self._found_entry_points = False
        _REGISTRIES[group] = self

    def __contains__(self, name: object) -> bool:
        if name in self._places or name in self._loaded:
            return True
        self._find_entry_points()
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        """Yield all names: shipped ones first, then plug-ins in the order in which they were registered."""
        self._find_entry_points()
        yield from dict.fromkeys([*self._places, *self._loaded])

    def load(self, name: str) -> Any:
        """Return what stands behind a name.

        Raises
        ------
        UserError
            There is no such name; the message names the nearest one and all known.
        PluginError
            An entry point cannot be imported, or is not what the group takes.
        """
        if name not in self:
            near = difflib.get_close_matches(str(name), list(self), 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"no {self.noun} is called {name!r}{hint} (known: {', '.join(self)})")
        if name not in self._loaded:
            module, _, attribute = self._places[name].partition(":")
            try:
                found = getattr(importlib.import_module(module), attribute)
            except Exception as error:
                if name not in self._origin:  # shipped: a defect of ours, to be seen as one
                    raise
                raise PluginError(f"{self._origin[name]}: {type(error).__name__}: {error}") from error
            if name in self._origin:
                self._validate(name, found, self._origin[name])
            self._loaded[name] = found
        return self._loaded[name]

    def register(self, name: str, entry: Any, origin: str) -> None:
        """Add an entry.

        Parameters
        ----------
        name : str
            As a study will call it.
        entry : object
            A class that derives from the group's base, or a callable.
        origin : str
            Where it comes from, for messages: a plug-in's file.

        Raises
        ------
        PluginError
            The name is taken, or the entry is not what the group takes.
        """
        if not isinstance(name, str) or not name:
            raise PluginError(f"{origin}: {self.group}: {name!r} is not a name (expected a non-empty string)")
        if name in self:
            owner = self._origin.get(name, "mifsim itself")
            raise PluginError(f"{origin}: {self.noun} {name!r} is registered already, by {owner}")
        self._validate(name, entry, origin)
        self._loaded[name] = entry
        self._origin[name] = origin

    def forget(self, origin: str) -> None:
        """Remove all entries of one origin."""
        for name in [name for name, place in self._origin.items() if place == origin]:
            self._loaded.pop(name, None)
            self._places.pop(name, None)
            del self._origin[name]

    def name_of(self, entry: Any) -> str:
        """Return the name under which an entry is known.

        Raises
        ------
        KeyError
            It is not registered.
        """
        for name, loaded in self._loaded.items():
            if loaded is entry:
                return name
        place = f"{getattr(entry, '__module__', '')}:{getattr(entry, '__qualname__', '')}"
        for name, known in self._places.items():
            if known == place:
                return name
        raise KeyError(f"{place} is not a registered {self.noun}")

    def origin_of(self, name: str) -> str | None:
        """Return where a name comes from; None for what ships with mifsim."""
        return self._origin.get(name)

    def _find_entry_points(self) -> None:
        if self._found_entry_points:
            return
        self._found_entry_points = True
        for point in metadata.entry_points(group=f"mifsim.{self.group}"):
            origin = f"entry point {point.name!r} of {point.dist.name if point.dist else 'an installed package'}"
            if point.name in self._places or point.name in self._loaded:
                owner = self._origin.get(point.name, "mifsim itself")
                raise PluginError(f"{origin}: {self.noun} {point.name!r} is registered already, by {owner}")
            self._places[point.name] = point.value
            self._origin[point.name] = origin

    def _validate(self, name: str, entry: Any, origin: str) -> None:
        where = f"{origin}: {self.noun} {name!r}"
        if self._base is None:
            if not callable(entry) and not isinstance(entry, tuple):
                raise PluginError(f"{where}: {entry!r} is not a function")
        else:
            module, _, attribute = self._base.partition(":")
            base = getattr(importlib.import_module(module), attribute)
            if not inspect.isclass(entry) or not issubclass(entry, base):
                raise PluginError(f"{where}: {entry!r} does not derive from {attribute} ({module})")
            if missing := sorted(getattr(entry, "__abstractmethods__", ())):
                raise PluginError(f"{where}: {entry.__name__} lacks {', '.join(missing)}")
        if problem := self._check(name, entry):
            raise PluginError(f"{where}: {problem}")


def registry(group: str) -> Registry:
    """Return the registry of a group.

    Raises
    ------
    PluginError
        There is no such group.
    """
    if group not in GROUPS:
        near = difflib.get_close_matches(str(group), GROUPS, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise PluginError(f"{group!r} is not a group of plug-ins{hint} (known: {', '.join(GROUPS)})")
    if group not in _REGISTRIES:
        importlib.import_module(_MODULES[group])
    return _REGISTRIES[group]


_MODULES = {
    "attacks": "mifsim.clients",
    "users": "mifsim.clients",
    "evasions": "mifsim.clients",
    "detectors": "mifsim.defense.kinds",
    "datasets": "mifsim.data",
    "victims": "mifsim.victims.config",
}
"""The module whose import makes each registry."""
