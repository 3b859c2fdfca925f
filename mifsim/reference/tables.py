"""A table of keys, and the function that makes one of a pydantic model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from mifsim.reference.accepted import default_of, type_of


@dataclass(frozen=True)
class Key:
    """A key of a TOML file.

    Attributes
    ----------
    name : str
    accepted : str
        Type and range, in words.
    default : str
        As TOML has it; ``required`` if there is none, ``absent`` if nothing takes its place.
    description : str
    searched : str
        Of a detector's parameter: the values that a search tries unless the study names others; empty otherwise.
    """

    name: str
    accepted: str
    default: str
    description: str
    searched: str = ""


@dataclass(frozen=True)
class KeyTable:
    """The keys of one table of a TOML file.

    Attributes
    ----------
    group : {"study", "attacks", "users", "evasions", "detectors", "values", "guard"}
    name : str
        Name of the table within its group, such as ``tuning.splits`` or ``mi-face``.
    header : str
        How the file has it, such as ``[tuning.splits]`` or ``[[attacks]] attack = "mi-face"``.
    summary : str
        The first sentence of its class' docstring.
    keys : tuple of Key
    """

    group: str
    name: str
    header: str
    summary: str
    keys: tuple[Key, ...]

    @property
    def searched(self) -> bool:
        """Whether its keys have values to search."""
        return any(key.searched for key in self.keys)


def keys_of(model: type[BaseModel], replaced: Mapping[str, tuple[Key, ...]] | None = None) -> Iterator[Key]:
    """Yield the keys of a pydantic model.

    Parameters
    ----------
    model : class
    replaced : mapping, optional
        For fields that a file does not have as they are: the keys in their place.
    """
    for name, field in model.model_fields.items():
        if replaced and name in replaced:
            yield from replaced[name]
        else:
            yield Key(field.alias or name, type_of(field), default_of(field), field.description or "")


def summary_of(documented: Any) -> str:
    """Return the first paragraph of a docstring as one line.

    Examples
    --------
    >>> summary_of(Key)
    'A key of a TOML file.'
    """
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split()).replace("``", "`")
