"""Ledgers: where the counts of clients are kept durably. A new one is a module, and a line in `open_ledger`."""

from mifsim.guard.ledger.base import Entry, Ledger, LedgerError, Superseded
from mifsim.guard.ledger.urls import open_ledger

__all__ = ["Entry", "Ledger", "LedgerError", "Superseded", "open_ledger"]
