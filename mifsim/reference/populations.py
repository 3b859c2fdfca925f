"""The arguments of attacks, users and evasions, and the forms of their values that are drawn."""

from __future__ import annotations

from collections.abc import Iterator

from mifsim.clients.users.length import Geometric, Uniform
from mifsim.clients.users.span import Ends
from mifsim.reference.tables import KeyTable, keys_of, summary_of
from mifsim.registry import registry

_HEADERS = {
    "attacks": '[[attacks]] attack = "{}"',
    "users": '[[users]] user = "{}"',
    "evasions": "evasions = [{{ {} = {{ … }} }}]",
}


def client_tables(group: str) -> Iterator[KeyTable]:
    """Yield the tables of all attacks, users or evasions, those of plug-ins included.

    Parameters
    ----------
    group : {"attacks", "users", "evasions"}

    Examples
    --------
    >>> next(client_tables("evasions")).header
    'evasions = [{ noise = { … } }]'
    """
    known = registry(group)
    for name in known:
        model = known.load(name)
        yield KeyTable(group, name, _HEADERS[group].format(name), summary_of(model), tuple(keys_of(model)))


def value_tables() -> Iterator[KeyTable]:
    """Yield the tables that are accepted in the place of one number, which is then drawn."""
    for name, model, example in (
        ("uniform", Uniform, "length = { min = 20, max = 100 }"),
        ("geometric", Geometric, "length = { mean = 50 }"),
        ("range", Ends, "scale = { min = 0.5, max = 1.0 }"),
    ):
        yield KeyTable("values", name, example, summary_of(model), tuple(keys_of(model)))
