"""Plug-ins from a file: attacks, users, evasions, detectors, data sets and victims that live outside the package.

A plug-in is a Python file that registers what it defines (see `register`). It is given on the command line only
(``--plugin FILE.py``): a study file runs no code. Every process of a run loads the same bytes, which travel with the
study; the run notes their digest.
"""

from __future__ import annotations

import hashlib
import inspect
import linecache
import sys
import traceback
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mifsim.errors import PluginError
from mifsim.limits import read_plain
from mifsim.registry import GROUPS, registry

MAX_PLUGIN_BYTES = 4 * 2**20

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Plugin:
    """One plug-in's source, as every process of a run loads it.

    Attributes
    ----------
    name : str
        The file's name.
    source : bytes
    """

    name: str
    source: bytes

    @property
    def digest(self) -> str:
        """16 hex digits of the source."""
        return hashlib.sha256(self.source).hexdigest()[:16]

    @property
    def module(self) -> str:
        """The name of the module that its code becomes."""
        stem = "".join(letter if letter.isalnum() else "_" for letter in Path(self.name).stem)
        return f"mifsim_plugin_{stem}_{self.digest}"


_loaded: dict[str, Plugin] = {}
"""By digest, in the order in which they were loaded."""
_loading: list[Plugin] = []


def register(group: str, name: str) -> Callable[[Entry], Entry]:
    """Register a class or a function under a name that studies can use; a decorator for plug-ins.

    Parameters
    ----------
    group : {"attacks", "users", "evasions", "detectors", "datasets", "victims"}
        What it is.
    name : str
        As a study will call it.

    Raises
    ------
    PluginError
        The name is taken, the group does not exist, or the class lacks something; the message says what.

    Examples
    --------
    ::

        @register("users", "night-owls")
        class NightOwls(User): ...
    """

    def add(entry: Entry) -> Entry:
        origin = _loading[-1].name if _loading else str(getattr(entry, "__module__", "a plug-in"))
        registry(group).register(name, entry, origin)
        return entry

    return add


def load_plugin(path: str | Path) -> Plugin:
    """Load a plug-in from a file; loading the same content again does nothing.

    Raises
    ------
    PluginError
        The file cannot be read, raises while it is imported, or registers nothing; one line that names the file.
    """
    path = Path(path)
    try:
        source = read_plain(path, MAX_PLUGIN_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PluginError(f"--plugin {path}: cannot be read: {reason}") from None
    if path.suffix != ".py":
        raise PluginError(f"--plugin {path}: not a Python file (expected a name that ends in .py)")
    return load_source(Plugin(path.name, source))


def load_all(plugins: Iterable[Plugin]) -> None:
    """Load plug-ins that another process has loaded, in its order."""
    for plugin in plugins:
        load_source(plugin)


def loaded_plugins() -> tuple[Plugin, ...]:
    """Return the plug-ins of this process, in the order in which they were loaded."""
    return tuple(_loaded.values())


def plugin_facts() -> list[dict[str, str]]:
    """Return name and digest of each plug-in, for ``run.json``."""
    return [{"file": plugin.name, "digest": plugin.digest} for plugin in loaded_plugins()]


def load_source(plugin: Plugin) -> Plugin:
    """Run a plug-in's code, so that it registers what it defines."""
    if plugin.digest in _loaded:
        return _loaded[plugin.digest]
    if any(other.name == plugin.name for other in _loaded.values()):
        raise PluginError(f"--plugin {plugin.name}: another file of this name is loaded already; rename one of them")
    module = types.ModuleType(plugin.module)
    module.__file__ = plugin.name
    text = plugin.source.decode("utf-8", errors="replace")
    # So that a traceback inside the plug-in shows its lines, on every machine.
    linecache.cache[plugin.name] = (len(text), None, text.splitlines(keepends=True), plugin.name)
    sys.modules[plugin.module] = module
    before = _entries()
    _loading.append(plugin)
    try:
        exec(compile(plugin.source, plugin.name, "exec"), module.__dict__)  # noqa: S102  # what --plugin asks for
    except BaseException as error:
        _forget(plugin)
        if isinstance(error, PluginError):
            text = str(error).removeprefix(f"{plugin.name}: ")
            raise PluginError(f"--plugin {plugin.name}: {text}") from error
        if not isinstance(error, Exception):
            raise
        text = " ".join(str(error).split())  # one line, whatever it raises
        raise PluginError(f"--plugin {plugin.name}: {_place(error, plugin)}{type(error).__name__}: {text}") from error
    finally:
        _loading.pop()
    if _entries() == before:
        _forget(plugin)
        raise PluginError(
            f"--plugin {plugin.name}: registers nothing (expected @mifsim.register(GROUP, NAME) with a group of "
            f"{', '.join(GROUPS)})"
        )
    _loaded[plugin.digest] = plugin
    return plugin


def _entries() -> set[tuple[str, str]]:
    return {(group, name) for group in GROUPS for name in registry(group)}


def _forget(plugin: Plugin) -> None:
    sys.modules.pop(plugin.module, None)
    for group in GROUPS:
        registry(group).forget(plugin.name)


def _place(error: Exception, plugin: Plugin) -> str:
    if isinstance(error, SyntaxError) and error.filename == plugin.name:
        return f"line {error.lineno}: "
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == plugin.name]
    return f"line {lines[-1]}: " if lines else ""


def source_of_entry(entry: Any) -> bytes:
    """Return the source of the module that defines an entry: what follows from its code is cached under it."""
    for plugin in _loaded.values():
        if plugin.module == getattr(entry, "__module__", None):
            return plugin.source
    return inspect.getsource(sys.modules[entry.__module__]).encode()


def unload_plugins() -> None:
    """Forget all plug-ins of this process; for tests."""
    for plugin in list(_loaded.values()):
        _forget(plugin)
    _loaded.clear()


def restore(plugins: tuple[Plugin, ...], make: Callable[..., Any], *arguments: Any) -> Any:
    """Load plug-ins, then make an object that needs their classes: how such objects cross to other processes."""
    load_all(plugins)
    return make(*arguments)
