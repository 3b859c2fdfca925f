"""Conversion of configurations to plain values and files, and back."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from mifsim.defense.config_file import DEFAULT_KIND, TABLE, read_file, write_file
from mifsim.errors import ConfigError

if TYPE_CHECKING:
    from mifsim.defense.param import Param
    from mifsim.defense.view import View


class Serializable:
    """Base class of `DetectorConfig`: its subclasses are dataclasses with the fields `scope` and `view`."""

    kind: ClassVar[str]
    params: ClassVar[Mapping[str, Param]]
    __dataclass_fields__: ClassVar[dict[str, Any]]
    scope: Any
    view: View | None

    def to_dict(self) -> dict[str, Any]:
        """Return kind, parameters, scope and view as plain values for TOML and JSON, including all defaults.

        Optional parameters that are off and an absent view are left out.
        """
        off = [name for name, param in self.params.items() if param.is_off(getattr(self, name))]
        parameters = [field.name for field in fields(self) if field.name not in ("scope", "view", *off)]
        view = {} if self.view is None else {"view": self.view.to_dict()}
        return {
            "kind": self.kind,
            **{name: getattr(self, name) for name in parameters},
            "scope": self.scope,
            **view,
        }

    def to_cells(self) -> dict[str, str]:
        """Return the table cells ``kind`` and ``config``; `mifsim.defense.kinds.read_cells` is the inverse."""
        rest = self.to_dict()
        return {"kind": rest.pop("kind"), "config": json.dumps(rest)}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Create a configuration of this kind from a mapping of its fields.

        Raises
        ------
        ConfigError
            If a key is unknown or missing, or a value is not accepted. The message names the key and what is accepted.
        """
        known = [field.name for field in sorted(fields(cls), key=lambda field: field.name in ("scope", "view"))]
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1, 0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"{key} = {table[key]!r}: unknown key{hint} (accepted: {', '.join(known)})")
        missing = [item.name for item in fields(cls) if item.name not in table and _required(item)]
        if missing:
            required = [item.name for item in fields(cls) if _required(item)]
            raise ConfigError(f"{cls.kind!r} needs {', '.join(required)}; missing: {', '.join(missing)}")
        try:
            return cls(**table)
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:  # raised by a plug-in's validation
            raise ConfigError(str(error)) from None

    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Write the configuration as the table ``[filter]`` of a TOML file, atomically.

        Parameters
        ----------
        path : path-like
            Missing folders are created.
        extra : mapping of mappings, optional
            Further tables for information, such as the guarantee; `load` ignores them.

        Raises
        ------
        ValueError
            If `extra` contains a table ``filter``.
        """
        write_file(path, self.to_dict(), extra)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a configuration of this kind from the table ``[filter]`` of a TOML file.

        Raises
        ------
        ConfigError
            If the file cannot be read, or contains another kind, or a key or value that is not accepted.
        """
        table = read_file(path)
        if (kind := table.pop("kind", DEFAULT_KIND)) != cls.kind:
            raise ConfigError(f"{path}: [{TABLE}] kind = {kind!r}: expected {cls.kind!r}")
        try:
            return cls.from_dict(table)
        except ConfigError as error:
            raise ConfigError(f"{path}: [{TABLE}] {error}") from error


def _required(item: Any) -> bool:
    return item.default is MISSING and item.default_factory is MISSING and not item.kw_only
