"""Names that exist in one test only."""

from __future__ import annotations

import pytest

from mifsim.registry import registry


def add_entry(monkeypatch: pytest.MonkeyPatch, group: str, name: str, place: str) -> None:
    """Let a registry know one more name, ``"module:attribute"``, until the test ends."""
    found = registry(group)
    monkeypatch.setattr(found, "_paths", {**found._paths, name: place})
    monkeypatch.setattr(found, "_loaded", dict(found._loaded))
