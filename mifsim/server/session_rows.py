"""The result of one session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mifsim.leakage import Snapshots
from mifsim.server.client_specs import ClientSpec

SessionEnd = Literal["blocked", "finished", "exhausted", "failed"]


@dataclass
class SessionRow:
    """The result of one session, from which its row in the table ``sessions`` is written."""

    session_id: str
    spec: ClientSpec
    client_number: int = 1
    outcome: SessionEnd = "finished"
    queries: int = 0
    answered: int = 0
    shared: int = 0
    last_query: int = 0
    queries_to_block: int | None = None
    count: float = 0.0
    target_confidence: float | None = None
    error: str | None = None
    snapshots: Snapshots | None = None
