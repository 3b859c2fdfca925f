"""Ledgers: where the counts of clients are kept durably. A new backend is a module, and a line in `open_ledger`."""

from mifsim.guard.ledger.base import Entry, Ledger, LedgerError, Superseded, open_ledger

__all__ = ["Entry", "Ledger", "LedgerError", "Superseded", "open_ledger"]
