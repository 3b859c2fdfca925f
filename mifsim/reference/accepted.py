"""Types, ranges and defaults of the fields of a pydantic model, in words."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mifsim.clients.users.span import Within

_NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "any value"}
_SYMBOLS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))


def type_of(field: FieldInfo) -> str:
    """Return the type of a field and its range, such as ``whole number ≥ 1``."""
    return _with_bounds(_words(field.annotation), field.metadata)


def default_of(field: FieldInfo) -> str:
    """Return the default of a field as TOML would have it; ``required`` if there is none."""
    value = field.get_default(call_default_factory=True, validated_data={})
    return "required" if value is PydanticUndefined else shown(value)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the pydantic models in a type, such as ``Filter`` in ``list[Filter]``; for a `RootModel`, its root's."""
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        yield from models_in(annotation.model_fields["root"].annotation)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for argument in typing.get_args(annotation):
            yield from models_in(argument)


def shown(value: Any) -> str:
    """Return a value as TOML would have it; ``absent`` for None.

    Examples
    --------
    >>> [shown(value) for value in (True, 0.5, "a", None, (1, 2), {"a": 1})]
    ['true', '0.5', '"a"', 'absent', '[1, 2]', '{a = 1}']
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
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value)


def number(value: float) -> str:
    """Return a bound as text: whole numbers with commas, and large powers of two as such.

    Examples
    --------
    >>> [number(value) for value in (0.01, 100_000, 2**63)]
    ['0.01', '100,000', '2^63']
    """
    exponent = math.log2(value) if value > 1 else 0.0
    if exponent >= 20 and exponent.is_integer():
        return f"2^{exponent:.0f}"
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _words(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        inner, *metadata = arguments
        return _with_bounds(_words(inner), _flat(metadata))
    if origin is Literal:
        return _either(list(map(shown, arguments)))
    if origin in (typing.Union, types.UnionType):
        return _either([words for argument in arguments if argument is not type(None) for words in _branches(argument)])
    if origin in (list, tuple, frozenset, set, Sequence):
        kinds = [argument for argument in arguments if argument is not Ellipsis]
        if len(set(kinds)) > 1:
            return "list"
        count = "" if origin is not tuple or Ellipsis in arguments else f"{len(kinds)} "
        return f"list of {count}{_plural(_words(kinds[0]))}"
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return type_of(annotation.model_fields["root"])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        keys = ", ".join(annotation.model_fields)
        return f"{{{keys}}}" if 0 < len(annotation.model_fields) <= 2 else "table"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _branches(annotation: Any) -> list[str]:
    """Return the words of a member of a union: one for each value of a `Literal`."""
    if typing.get_origin(annotation) is Literal:
        return list(map(shown, typing.get_args(annotation)))
    return [_words(annotation)]


def _plural(words: str) -> str:
    noun = next((noun for noun in ("whole number", "number", "table", "list") if words.startswith(noun)), None)
    return words if noun is None else f"{noun}s{words.removeprefix(noun)}"


def _either(words: Sequence[str]) -> str:
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} or {last}" if others else last


def _flat(metadata: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for item in metadata:
        found += item.metadata if isinstance(item, FieldInfo) else [item]
    return found


def _with_bounds(words: str, metadata: Sequence[Any]) -> str:
    for item in metadata:
        if isinstance(item, Within):
            return f"{words}, from {number(item.low)} to {number(item.high)}"
    found = {
        name: value
        for item in metadata
        for name, _ in _SYMBOLS
        if isinstance(value := getattr(item, name, None), int | float)
    }
    if {"ge", "le"} <= found.keys():
        return f"{words} from {number(found['ge'])} to {number(found['le'])}"
    bounds = [f"{symbol} {number(found[name])}" for name, symbol in _SYMBOLS if name in found]
    return f"{words} {', '.join(bounds)}" if bounds else words
