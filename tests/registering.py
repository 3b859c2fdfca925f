"""Registry entries that exist during one test only."""

from __future__ import annotations

import pytest

from mifsim.registry import registry


def add_entry(monkeypatch: pytest.MonkeyPatch, group: str, name: str, path: str) -> None:
    """Add an entry to a registry until the test ends; its path is ``"module:attribute"``."""
    entries = registry(group)
    monkeypatch.setattr(entries, "_paths", {**entries._paths, name: path})
    monkeypatch.setattr(entries, "_loaded", dict(entries._loaded))
