"""Table columns that identify a configuration: its kind, its JSON, and one column for each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mifsim.defense import DetectorConfig
from mifsim.defense.space import SearchSpace
from mifsim.tables.columns import param_column, with_columns
from mifsim.tables.fields import CATEGORY


def param_schema(table: str, space: SearchSpace) -> pa.Schema:
    """Return a table's schema with columns for the space's parameters and choices after ``config``.

    Parameters
    ----------
    table : str
        Name of the table in `mifsim.tables.schemas.SCHEMAS`.
    space : SearchSpace
        The search space.
    """
    fields: dict[str, tuple[pa.DataType, str]] = {}
    for name, param in space.config_params.items():
        kind = pa.int64() if param.whole else pa.float64()
        fields[param_column(name)] = (kind, param.description or "searched parameter")
    for name, choice in space.config_choices.items():
        types = {bool: pa.bool_(), int: pa.int64()}
        fields[param_column(name)] = (
            types.get(type(choice.default), CATEGORY),
            choice.description or "searched choice",
        )
    return with_columns(table, fields, after="config")


def config_columns(configs: Sequence[DetectorConfig | None], space: SearchSpace) -> dict[str, list[Any]]:
    """Return the columns ``kind`` and ``config``, and a column for each parameter and choice of the space.

    The cells of parameters and choices are null for configurations of other kinds. For None, only ``kind`` is not null.
    """
    nothing = {"kind": space.kind, "config": None}
    cells = [nothing if config is None else config.to_cells() for config in configs]
    names = [*space.config_params, *space.config_choices]
    values = [
        config.parameter_values() if config is not None and config.kind == space.kind else {} for config in configs
    ]
    return {
        "kind": [cell["kind"] for cell in cells],
        "config": [cell["config"] for cell in cells],
        **{param_column(name): [found.get(name) for found in values] for name in names},
    }


def param_facts(space: SearchSpace) -> dict[str, str]:
    """Return the description of each parameter and choice of the space, for ``run.json``."""
    choices = {name: choice.description for name, choice in space.config_choices.items()}
    return {**{name: param.description for name, param in space.config_params.items()}, **choices}
