"""Changes to a study table before it is checked: overrides, and absolute paths."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mifsim.errors import StudyError


def override(table: dict[str, Any], text: str) -> None:
    """Set a value of a study table, given as ``key=value`` with dots in the key.

    Raises
    ------
    StudyError
        If the text is not such an override, or does not fit the table.
    """
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise StudyError(f"--set {text}: expected key=value, such as server.transport=uint8")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw  # a string without quotes, as in --set server.transport=uint8
    *path, last = key.strip().split(".")
    target: Any = table
    for step in path:
        if isinstance(target, list):
            target = target[_index(target, step, text)]
        else:
            target = target.setdefault(step, {})
        if not isinstance(target, (dict, list)):
            raise StudyError(f"--set {text}: {step!r} is a value, not a table")
    if isinstance(target, list):
        target[_index(target, last, text)] = value
    else:
        target[last] = value


def _index(tables: list[Any], step: str, text: str) -> int:
    if not step.isdigit() or int(step) >= len(tables):
        raise StudyError(
            f"--set {text}: {step!r} is not an index of a list of {len(tables)} (accepted: 0 to {len(tables) - 1})"
        )
    return int(step)


def with_absolute_paths(table: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return the table with relative paths resolved against the folder of the study file."""
    resolved = dict(table)
    for section, key in (("data", "folder"), ("victim", "file")):
        content = resolved.get(section)
        if isinstance(content, dict) and isinstance(content.get(key), str):
            resolved[section] = {**content, key: _absolute(content[key], base)}
    for section, key in (("users", "path"), ("attacks", "generator")):
        if isinstance(tables := resolved.get(section), list):
            resolved[section] = [
                {**item, key: _absolute(item[key], base)}
                if isinstance(item, Mapping) and isinstance(item.get(key), str) and item[key]
                else item
                for item in tables
            ]
    return resolved


def _absolute(path: str, base: Path) -> str:
    return str((base / Path(path).expanduser()).resolve())
