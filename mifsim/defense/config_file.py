"""TOML files of detector configurations: the table ``[filter]`` with its version."""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mifsim.errors import ConfigError

TABLE = "filter"
"""Name of the TOML table that contains a configuration."""
FILE_VERSION = 2
"""Version of that table. Version 1 had no ``kind``: all configurations were of kind ``ssim-hash``."""
DEFAULT_KIND = "ssim-hash"
"""Kind of a configuration that does not state one."""


def read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the table ``[filter]`` of a TOML file without its version, which is validated.

    Raises
    ------
    ConfigError
        If the file cannot be read, has no such table, or has a version that is not supported.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_file(content, path)


def parse_file(content: bytes, path: object) -> dict[str, Any]:
    """Return the table ``[filter]`` of a TOML file's content; see `read_file`. `path` is named in error messages."""
    try:
        document = tomllib.loads(toml_text(content))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    table = document.get(TABLE)
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: no table [{TABLE}]; expected one with the configuration of a detector")
    version = table.pop("version", 1)
    if version not in range(1, FILE_VERSION + 1) or isinstance(version, bool):
        raise ConfigError(
            f"{path}: [{TABLE}] version = {version!r}: not supported by this mifsim (accepted: 1 to {FILE_VERSION})"
        )
    return table


def toml_text(content: bytes) -> str:
    """Return the text of a TOML file, which is UTF-8; a byte-order mark at its start is left out.

    Some editors write this mark, which TOML does not allow.

    Raises
    ------
    UnicodeDecodeError
        If the content is not UTF-8. For UTF-16, which some editors call "Unicode", the message says so.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnicodeDecodeError("utf-8", content, 0, 2, "the file is UTF-16; save it as UTF-8")
    return content.decode("utf-8-sig")


def write_file(path: str | os.PathLike[str], config: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> None:
    """Write a configuration and its version as the table ``[filter]`` of a TOML file, atomically.

    Parameters
    ----------
    path : path-like
        Missing folders are created.
    config : mapping
        Result of `DetectorConfig.to_dict`.
    extra : mapping, optional
        Further tables, or lists of tables.

    Raises
    ------
    ValueError
        If `extra` contains a table ``filter``.
    """
    import tomli_w

    if extra and TABLE in extra:
        raise ValueError(f"extra contains [{TABLE}]; expected other names, as that table holds the configuration")
    text = tomli_w.dumps({TABLE: {"version": FILE_VERSION, **config}, **(extra or {})})
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
