"""Plug-ins from files: attacks, users, evasions, detectors, data sets and victims defined outside the package.

A plug-in is a Python file that registers classes or functions (see `register`). It can only be given on the command
line (``--plugin FILE.py``): a study file runs no code. Its source is sent with the study to every process of a run, and
``run.json`` records its digest.
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
    """The source of one plug-in.

    Attributes
    ----------
    name : str
        The file name without its folder.
    source : bytes
        The content of the file.
    """

    name: str
    source: bytes

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the source."""
        return hashlib.sha256(self.source).hexdigest()[:16]

    @property
    def module(self) -> str:
        """The name of the module into which the source is loaded."""
        stem = "".join(letter if letter.isalnum() else "_" for letter in Path(self.name).stem)
        return f"mifsim_plugin_{stem}_{self.digest}"


_loaded: dict[str, Plugin] = {}
"""Loaded plug-ins by digest, in loading order."""
_loading: list[Plugin] = []
_mifsim_started_it = False


def declare_own_process() -> None:
    """State that mifsim started this process, so that no code but mifsim and loaded plug-ins runs in it."""
    global _mifsim_started_it
    _mifsim_started_it = True


def runs_only_mifsim() -> bool:
    """Return whether no code of users runs in this process: mifsim started it, and it loaded no plug-in."""
    return _mifsim_started_it and not _loaded


def register(group: str, name: str) -> Callable[[Entry], Entry]:
    """Register a class or a function under a name that studies can use (decorator for plug-ins).

    Parameters
    ----------
    group : {"attacks", "users", "evasions", "detectors", "datasets", "victims", "predictors"}
        The kind of object.
    name : str
        The name that a study uses.

    Returns
    -------
    callable
        A decorator that registers its argument and returns it unchanged.

    Raises
    ------
    PluginError
        If the group does not exist, the name is already registered, or the group does not accept the object (for
        example, because it does not implement an abstract method).

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
    """Load a plug-in from a file, unless a file with the same content is already loaded.

    Raises
    ------
    PluginError
        If the file cannot be read, raises an exception while it is loaded, or registers nothing. The message is one
        line that names the file.
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
    """Load plug-ins of another process, in the same order."""
    for plugin in plugins:
        load_source(plugin)


def loaded_plugins() -> tuple[Plugin, ...]:
    """Return the plug-ins of this process in loading order."""
    return tuple(_loaded.values())


def plugin_facts() -> list[dict[str, str]]:
    """Return name and digest of each plug-in, for ``run.json``."""
    return [{"file": plugin.name, "digest": plugin.digest} for plugin in loaded_plugins()]


def load_source(plugin: Plugin) -> Plugin:
    """Execute the source of a plug-in, unless it is already loaded.

    Raises
    ------
    PluginError
        If another plug-in has the same file name, or the source raises an exception or registers nothing.
    """
    if plugin.digest in _loaded:
        return _loaded[plugin.digest]
    if any(other.name == plugin.name for other in _loaded.values()):
        raise PluginError(f"--plugin {plugin.name}: another plug-in has the same file name; rename one of them")
    module = types.ModuleType(plugin.module)
    module.__file__ = plugin.name
    text = plugin.source.decode("utf-8", errors="replace")
    # Tracebacks can then show source lines on machines that do not have the file.
    linecache.cache[plugin.name] = (len(text), None, text.splitlines(keepends=True), plugin.name)
    sys.modules[plugin.module] = module
    before = _entries()
    _loading.append(plugin)
    try:
        exec(compile(plugin.source, plugin.name, "exec"), module.__dict__)  # noqa: S102  # the purpose of --plugin
    except BaseException as error:
        _forget(plugin)
        if isinstance(error, PluginError):
            text = str(error).removeprefix(f"{plugin.name}: ")
            raise PluginError(f"--plugin {plugin.name}: {text}") from error
        if not isinstance(error, Exception):
            raise
        text = " ".join(str(error).split())  # messages must be one line
        raise PluginError(f"--plugin {plugin.name}: {_line(error, plugin)}{type(error).__name__}: {text}") from error
    finally:
        _loading.pop()
    if _entries() == before:
        _forget(plugin)
        raise PluginError(
            f"--plugin {plugin.name}: registers nothing (expected @mifsim.register(GROUP, NAME), GROUP one of "
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


def _line(error: BaseException, plugin: Plugin) -> str:
    """Return ``"line N: "``, the last line of the plug-in in the traceback, or an empty string."""
    if isinstance(error, SyntaxError) and error.filename == plugin.name:
        return f"line {error.lineno}: "
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == plugin.name]
    return f"line {lines[-1]}: " if lines else ""


def error_text(error: BaseException) -> str:
    """Return an exception as one line, with the last line of a plug-in in its traceback."""
    files = {plugin.name: plugin for plugin in _loaded.values()}
    passed = [files[frame.filename] for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    place = f"{passed[-1].name}, {_line(error, passed[-1])}" if passed else ""
    return f"{place}{type(error).__name__}: {' '.join(str(error).split())}"


def plugin_digests() -> list[str]:
    """Return the digests of the plug-ins of this process, in order; they are part of the cache keys of recordings."""
    return sorted(plugin.digest for plugin in _loaded.values())


def plugin_of(entry: Any) -> Plugin | None:
    """Return the plug-in that defines an entry; None if the package does."""
    module = getattr(entry, "__module__", None)
    return next((plugin for plugin in _loaded.values() if plugin.module == module), None)


def source_of_entry(entry: Any) -> bytes:
    """Return the source of the module that defines an entry; it is part of the cache keys of results."""
    plugin = plugin_of(entry)
    return inspect.getsource(sys.modules[entry.__module__]).encode() if plugin is None else plugin.source


def unload_plugins() -> None:
    """Unregister all plug-ins of this process (for tests)."""
    for plugin in list(_loaded.values()):
        _forget(plugin)
    _loaded.clear()


def restore(plugins: tuple[Plugin, ...], make: Callable[..., Any], *arguments: Any) -> Any:
    """Load plug-ins, then create an object that needs their classes; used to unpickle such objects.

    Parameters
    ----------
    plugins : tuple of Plugin
    make : callable
        Called with `arguments` after the plug-ins are loaded.
    """
    load_all(plugins)
    return make(*arguments)
