"""Types and ranges of the fields of a pydantic model, in words."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "any value"}
_SYMBOLS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))


def type_of(field: FieldInfo) -> str:
    """Return the type of a field and its range, such as ``whole number ≥ 1``."""
    return _with_bounds(_words(field.annotation), field.metadata)


def default_of(field: FieldInfo) -> str:
    """Return the default of a field as TOML would have it; ``required`` if there is none."""
    if field.default_factory is not None:
        value = field.default_factory()  # type: ignore[call-arg]
    else:
        value = field.default
    return "required" if value is PydanticUndefined else shown(value)


def shown(value: Any) -> str:
    """Return a value as TOML would have it.

    Examples
    --------
    >>> [shown(value) for value in (True, 0.5, "a", None, (1, 2), {})]
    ['true', '0.5', '"a"', 'absent', '[1, 2]', '{}']
    """
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, float):
        return "inf" if math.isinf(value) else f"{value:g}"
    if isinstance(value, BaseModel):
        return shown(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence | set | frozenset):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value)


def _words(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        inner, *metadata = arguments
        return _with_bounds(_words(inner), _flat(metadata))
    if origin is Literal:
        return " or ".join(shown(argument) for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(argument) for argument in arguments if argument is not type(None)))
    if origin in (list, tuple, frozenset, set, Sequence):
        kinds = [argument for argument in arguments if argument is not Ellipsis]
        return f"list of {_words(kinds[0])}" if len(set(kinds)) == 1 else "list"
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _flat(metadata: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for item in metadata:
        found += item.metadata if isinstance(item, FieldInfo) else [item]
    return found


def _with_bounds(words: str, metadata: Sequence[Any]) -> str:
    found = {
        name: value
        for item in metadata
        for name, _ in _SYMBOLS
        if isinstance(value := getattr(item, name, None), int | float)
    }
    if {"ge", "le"} <= found.keys():
        return f"{words} from {_number(found['ge'])} to {_number(found['le'])}"
    bounds = [f"{symbol} {_number(found[name])}" for name, symbol in _SYMBOLS if name in found]
    return f"{words} {', '.join(bounds)}" if bounds else words


def _number(value: float) -> str:
    exponent = math.log2(value) if value > 1 else 0.0
    if exponent >= 20 and exponent.is_integer():
        return f"2^{exponent:.0f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
