"""What holds of the fields that a study sets: those of clients and evasions, which are pydantic models."""

from __future__ import annotations

import pickle
import tomllib
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def assert_fields_are_documented(kind: type[BaseModel]) -> None:
    """Check that the class has a docstring, and each field a description and a default."""
    assert kind.__doc__, f"{kind.__name__} has no docstring"
    assert kind.__doc__ not in [base.__doc__ for base in kind.__mro__[1:]], f"{kind.__name__} has its base's docstring"
    for name, field in kind.model_fields.items():
        assert field.description, f"{name} has no description"
        assert not field.is_required(), f"{name} has no default"


def assert_survives_files_and_processes(model: BaseModel) -> None:
    """Check that it comes back equal from JSON, from TOML and from a pickle; and that it can be a key."""
    kind = type(model)
    assert kind.model_validate_json(model.model_dump_json()) == model
    # TOML has no null: a field that is None is left out, and must have that for a default.
    table = model.model_dump(mode="json", exclude_none=True)
    assert kind.model_validate(tomllib.loads(tomli_w.dumps(table))) == model
    assert pickle.loads(pickle.dumps(model)) == model  # noqa: S301 - dumped just now


def with_value(model: Model, name: str, value: Any) -> Model:
    """Return the model with another value of one field."""
    changed = type(model).model_validate({**model.model_dump(), name: value})
    assert changed != model, f"{name} is {value!r} already: that is no change"
    return changed
