"""The keys of ``guard.toml``."""

from __future__ import annotations

from collections.abc import Iterator

from mifsim.guard.config import GuardConfig
from mifsim.reference.sections import nested_tables
from mifsim.reference.tables import KeyTable


def guard_tables() -> Iterator[KeyTable]:
    """Yield the tables of ``guard.toml``."""
    yield from nested_tables(GuardConfig, "guard", "guard.toml")
