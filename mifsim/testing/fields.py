"""Checks of pydantic models whose fields a study sets: clients and evasions."""

from __future__ import annotations

import pickle
import tomllib
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def assert_fields_are_documented(kind: type[BaseModel]) -> None:
    """Check that the class has a docstring of its own, and each field a description and a default."""
    assert kind.__doc__, f"{kind.__name__} has no docstring"
    inherited = [base.__doc__ for base in kind.__mro__[1:]]
    assert kind.__doc__ not in inherited, f"{kind.__name__} has the docstring of its base class"
    for name, field in kind.model_fields.items():
        assert field.description, f"{name} has no description"
        assert not field.is_required(), f"{name} has no default"


def assert_survives_files_and_processes(model: BaseModel) -> None:
    """Check that the model is equal after a round trip through JSON, TOML and pickle."""
    kind = type(model)
    assert kind.model_validate_json(model.model_dump_json()) == model
    # TOML has no null: a field with the value None is omitted, so None must be its default.
    table = model.model_dump(mode="json", exclude_none=True)
    assert kind.model_validate(tomllib.loads(tomli_w.dumps(table))) == model
    assert pickle.loads(pickle.dumps(model)) == model  # noqa: S301 - the data is from the same line


def with_value(model: Model, name: str, value: Any) -> Model:
    """Return a copy of the model with a different value of one field."""
    changed = type(model).model_validate({**model.model_dump(), name: value})
    assert changed != model, f"{name} = {value!r}: equal to the present value (expected a different one)"
    return changed
