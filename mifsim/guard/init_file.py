"""The file that ``mifsim guard --init`` writes: every setting, with its meaning and its default."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel

from mifsim.errors import GuardError
from mifsim.guard.config import GuardConfig

_WIDTH = 118


def settings_text(settings: GuardConfig) -> str:
    """Return settings as TOML with a comment for each key; `GuardConfig.load` reads it."""
    lines = ["# Settings of `mifsim guard`. Paths start at the folder of this file.", ""]
    tables = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            tables += ["", f"[{name}]", *_lines(value)]
        else:
            lines += _line(name, value, field.description or "")
    return "\n".join([*lines, *tables]) + "\n"


def write_settings(path: Path, settings: GuardConfig) -> None:
    """Write a new file of settings.

    Raises
    ------
    GuardError
        If the file exists.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(settings_text(settings))
    except FileExistsError:
        raise GuardError(f"{path}: exists already (expected the name of a new file)") from None


def _lines(table: BaseModel) -> list[str]:
    return [
        line
        for name, field in type(table).model_fields.items()
        for line in _line(name, getattr(table, name), field.description or "")
    ]


def _line(name: str, value: Any, description: str) -> list[str]:
    comment = textwrap.wrap(description[:1].upper() + description[1:] + ".", _WIDTH)
    return [*(f"# {line}" for line in comment), tomli_w.dumps({name: value}, multiline_strings=False).strip()]
