"""Translates pydantic's errors into messages about a study: the key, the value, and what is accepted."""

from __future__ import annotations

import difflib
import types
import typing
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line for each error.

    Parameters
    ----------
    error : ValidationError
        An error raised by `model`.
    model : type
        The model at which the path of each error starts.

    Returns
    -------
    list of str
        Lines such as ``server.hots: unknown key; did you mean 'hosts'? (accepted: …)``.
    """
    lines: dict[str, None] = {}  # an ordered set: each message once
    for item in error.errors():
        path = [step for step in item["loc"] if not _branch_of_union(step)]
        key = ".".join(str(step) for step in path) or "the study"
        if item["type"] == "extra_forbidden":
            known = sorted(_model_at(model, path[:-1]).model_fields)
            near = difflib.get_close_matches(str(path[-1]), known, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            lines[f"{key}: unknown key{hint} (accepted: {', '.join(known)})"] = None
        elif item["type"] == "missing":
            lines[f"{key}: missing"] = None
        else:
            message = item["msg"].removeprefix("Value error, ")
            value = item["input"]
            shown = f" = {value!r}" if isinstance(value, (str, int, float, bool, type(None))) else ""
            if message.startswith("."):  # from a validator of a whole table, which names the key itself
                lines[f"{key}{message}"] = None
                continue
            lines[f"{key}{shown}: {message[0].lower() + message[1:] if message[:1].isupper() else message}"] = None
    return list(lines)


def _branch_of_union(step: int | str) -> bool:
    """Return whether a step of a path is the branch of a union, which pydantic adds and the file does not have."""
    return isinstance(step, str) and ("[" in step or step in {"int", "float", "str", "literal", "constrained-int"})


def _model_at(model: type[BaseModel], path: list[int | str]) -> type[BaseModel]:
    for step in path:
        if isinstance(step, int):
            continue
        field = model.model_fields.get(step)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return model
        model = inner
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if (
        isinstance(annotation, type)
        and issubclass(annotation, BaseModel)
        and not isinstance(annotation, types.GenericAlias)
    ):
        return annotation
    for argument in typing.get_args(annotation):
        if found := _model_in(argument):
            return found
    return None
