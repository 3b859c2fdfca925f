"""Registries: maps from the names that a study can use to classes and functions.

Entries are shipped with the package, installed as entry points, or registered by a plug-in. A registry maps a name to
``"module:attribute"``, which is imported on first use, or to an object. The entry points of its group are read when an
unknown name is looked up, or when all names are listed.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

from mifsim.errors import PluginError, UserError

GROUPS = ("attacks", "users", "evasions", "detectors", "datasets", "victims", "predictors")
"""Groups that can be extended; the entry-point group of each is ``mifsim.<group>``."""

_REGISTRIES: dict[str, Registry] = {}


class Registry:
    """The entries of one group by name.

    Parameters
    ----------
    group : str
        One of `GROUPS`.
    noun : str
        Name of one entry in messages, such as ``"attack"``.
    shipped : mapping of str to object
        The shipped entries: name to ``"module:attribute"``, or to the object itself.
    base : str or None
        ``"module:class"`` that every entry must derive from; None: any callable is accepted.
    check : callable, optional
        Takes a name and an entry of that base; returns the problem as text, or an empty string if it is valid.
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
        self._paths: dict[str, str] = {name: path for name, path in shipped.items() if isinstance(path, str)}
        self._loaded: dict[str, Any] = {name: entry for name, entry in shipped.items() if name not in self._paths}
        self._origin: dict[str, str] = {}
        self._base = base
        self._check = check
        self._found_entry_points = False
        _REGISTRIES[group] = self

    def __contains__(self, name: object) -> bool:
        if name in self._paths or name in self._loaded:
            return True
        self._find_entry_points()
        return name in self._paths

    def __iter__(self) -> Iterator[str]:
        """Yield all names: shipped entries first, then plug-ins in registration order."""
        self._find_entry_points()
        yield from dict.fromkeys([*self._paths, *self._loaded])

    def load(self, name: str) -> Any:
        """Return the entry of a name, imported if necessary.

        Raises
        ------
        UserError
            If the name is not registered; the message lists the registered names and the closest match.
        PluginError
            If an entry point cannot be imported, or the group does not accept it.
        """
        if name not in self:
            near = difflib.get_close_matches(str(name), list(self), 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"no {self.noun} is called {name!r}{hint} (accepted: {', '.join(self)})")
        if name not in self._loaded:
            module, _, attribute = self._paths[name].partition(":")
            try:
                found = getattr(importlib.import_module(module), attribute)
            except Exception as error:
                if name not in self._origin:  # shipped with mifsim: a bug, so keep the traceback
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
            The name that a study uses.
        entry : object
            A class that derives from the group's base, or a callable.
        origin : str
            The source of the entry, for messages: the plug-in's file name.

        Raises
        ------
        PluginError
            If the name is empty or already registered, or the group does not accept the entry.
        """
        if not isinstance(name, str) or not name:
            raise PluginError(f"{origin}: {self.group}: {name!r} is not a name (expected a non-empty string)")
        if name in self:
            owner = self._origin.get(name, "mifsim itself")
            raise PluginError(f"{origin}: {self.noun} {name!r} is already registered by {owner}")
        self._validate(name, entry, origin)
        self._loaded[name] = entry
        self._origin[name] = origin

    def forget(self, origin: str) -> None:
        """Remove all entries of an origin."""
        for name in [name for name, source in self._origin.items() if source == origin]:
            self._loaded.pop(name, None)
            self._paths.pop(name, None)
            del self._origin[name]

    def name_of(self, entry: Any) -> str:
        """Return the name under which an entry is registered.

        Raises
        ------
        KeyError
            If it is not registered.
        """
        for name, loaded in self._loaded.items():
            if loaded is entry:
                return name
        path = f"{getattr(entry, '__module__', '')}:{getattr(entry, '__qualname__', '')}"
        for name, known in self._paths.items():
            if known == path:
                return name
        raise KeyError(f"{path} is not a registered {self.noun}")

    def origin_of(self, name: str) -> str | None:
        """Return the origin of an entry; None for entries shipped with mifsim."""
        return self._origin.get(name)

    def _find_entry_points(self) -> None:
        if self._found_entry_points:
            return
        self._found_entry_points = True
        for point in metadata.entry_points(group=f"mifsim.{self.group}"):
            origin = f"entry point {point.name!r} of {point.dist.name if point.dist else 'an installed package'}"
            if point.name in self._paths or point.name in self._loaded:
                owner = self._origin.get(point.name, "mifsim itself")
                raise PluginError(f"{origin}: {self.noun} {point.name!r} is already registered by {owner}")
            self._paths[point.name] = point.value
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
                raise PluginError(f"{where}: {entry.__name__} does not implement {', '.join(missing)}")
        if problem := self._check(name, entry):
            raise PluginError(f"{where}: {problem}")


def registry(group: str) -> Registry:
    """Return the registry of a group.

    Raises
    ------
    PluginError
        If the group does not exist; the message lists the groups and the closest match.
    """
    if group not in GROUPS:
        near = difflib.get_close_matches(str(group), GROUPS, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise PluginError(f"{group!r} is not a group of plug-ins{hint} (accepted: {', '.join(GROUPS)})")
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
    "predictors": "mifsim.victims.config",
}
"""The module whose import creates the registry of each group."""
