"""The ledgers by the scheme of their URLs."""

from __future__ import annotations

from mifsim.guard.ledger.base import Ledger
from mifsim.guard.tables import LedgerSettings


def open_ledger(settings: LedgerSettings) -> Ledger:
    """Return the ledger of a URL; it is not opened yet."""
    kind, _, path = settings.url.partition(":")
    if kind == "sqlite":
        from mifsim.guard.ledger.sqlite import SqliteLedger

        return SqliteLedger(path, settings.synchronous)
    from mifsim.guard.ledger.memory import MemoryLedger

    return MemoryLedger()
