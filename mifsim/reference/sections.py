"""The keys of the sections of a study."""

from __future__ import annotations

import typing
from collections.abc import Iterator

from pydantic import BaseModel

from mifsim.clients.evasion import Evasion
from mifsim.clients.protocol import Client
from mifsim.reference.accepted import models_in
from mifsim.reference.tables import Key, KeyTable, keys_of, summary_of
from mifsim.study import Study
from mifsim.study.populations import Attacks, Users
from mifsim.study.sections import Filter

_NAME = "letters, digits, spaces and . _ + -"
# Fields that a file has in another form: the validators of these models convert it.
_REPLACED: dict[type[BaseModel], dict[str, tuple[Key, ...]]] = {
    Filter: {
        "name": (
            Key("name", _NAME, "required", 'name of the filter in the tables (default for kind = "none": "none")'),
        ),
        "config": (
            Key("kind", "text", '"ssim-hash"', "kind of the detector; its parameters are further keys of the table"),
            Key("file", "text", "absent", "a filter.toml, in place of kind and parameters"),
            Key("none", "true", "absent", 'true is short for kind = "none": no detector'),
        ),
    },
    Attacks: {
        "name": (Key("name", _NAME, "kind+evasions", "name of the population in the tables"),),
        "client": (Key("attack", "text", "required", "kind of attack; its arguments are further keys of the table"),),
    },
    Users: {
        "name": (Key("name", _NAME, "kind", "name of the population (the workload) in the tables"),),
        "client": (Key("user", "text", "required", "kind of user; its arguments are further keys of the table"),),
    },
}


def study_tables() -> Iterator[KeyTable]:
    """Yield the tables of all sections of a study, first the study's own keys.

    Examples
    --------
    >>> [table.header for table in study_tables()][:3]
    ['study.toml', '[data]', '[victim]']
    """
    yield from nested_tables(Study, "study", "study.toml")


def nested_tables(
    model: type[BaseModel], group: str, file: str, path: str = "", several: bool = False
) -> Iterator[KeyTable]:
    """Yield the tables of a model and of the models that its fields contain.

    Parameters
    ----------
    model : class
    group : str
        See `KeyTable`.
    file : str
        Name of the file, the header of the keys outside of any table.
    path : str
        Keys that lead to the model in the file, such as ``tuning.splits``.
    several : bool
        Whether the file can have the table several times.
    """
    inside: list[tuple[type[BaseModel], str, bool]] = []
    replaced = dict(_REPLACED.get(model, {}))
    for name, field in model.model_fields.items():
        found = [item for item in models_in(field.annotation) if not issubclass(item, Client | Evasion)]
        if name in replaced or not found:
            continue
        (item,) = found
        repeated = typing.get_origin(field.annotation) is list
        place = f"{path}.{name}" if path else name
        inside.append((item, place, repeated))
        accepted = "list of tables" if repeated else "table"
        replaced[name] = (Key(name, accepted, f"see {_header(place, repeated)}", field.description or ""),)
    header = _header(path, several) if path else file
    yield KeyTable(group, path or file, header, summary_of(model), tuple(keys_of(model, replaced)))
    for item, place, repeated in inside:
        yield from nested_tables(item, group, file, place, repeated)


def _header(path: str, several: bool) -> str:
    return f"[[{path}]]" if several else f"[{path}]"
