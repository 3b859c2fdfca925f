"""The ledgers by the scheme of their URLs."""

from __future__ import annotations

from mifsim.errors import GuardError
from mifsim.guard.ledger.base import Ledger
from mifsim.guard.tables import LedgerSettings


def open_ledger(settings: LedgerSettings) -> Ledger:
    """Return the ledger of a URL; it is not opened yet.

    Raises
    ------
    GuardError
        If it needs a library that is not installed, or its password cannot be read.
    """
    kind, _, path = settings.url.partition(":")
    if kind == "sqlite":
        from mifsim.guard.ledger.sqlite import SqliteLedger

        return SqliteLedger(path, settings.synchronous)
    if kind in ("redis", "rediss"):
        try:
            from mifsim.guard.ledger.redis import RedisLedger
        except ModuleNotFoundError as error:
            raise GuardError(
                f"ledger.url = {settings.url!r}: {error.name} is not installed; install the extra: "
                "pip install 'mifsim[redis]'"
            ) from None
        return RedisLedger(settings)
    from mifsim.guard.ledger.memory import MemoryLedger

    return MemoryLedger()
