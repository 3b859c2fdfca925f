"""The ledger ``memory:``, for tests and trials: its counts end with the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mifsim.guard.ledger.base import Entry, Ledger, Superseded


class MemoryLedger(Ledger):
    """A ledger in a dictionary.

    Parameters
    ----------
    shared : MemoryLedger or None
        Another owner's view of the same entries.
    """

    def __init__(self, shared: MemoryLedger | None = None) -> None:
        self._entries: dict[bytes, tuple[Entry, object]] = {} if shared is None else shared._entries
        self._meta: dict[str, str] = {} if shared is None else shared._meta
        self._configs: dict[str, Mapping[str, Any]] = {} if shared is None else shared._configs
        self._owner = object()

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def take(self, client: bytes) -> Entry | None:
        """See `Ledger`."""
        if client not in self._entries:
            return None
        entry, owner = self._entries[client]
        if owner is not self._owner:
            entry = entry._replace(epoch=entry.epoch + 1)
            self._entries[client] = entry, self._owner
        return entry

    async def put(self, entry: Entry) -> None:
        """See `Ledger`."""
        stored = self._entries.get(entry.client)
        known = entry.epoch == 0 if stored is None else stored[1] is self._owner and stored[0].epoch == entry.epoch
        if not known:
            raise Superseded("another owner has taken the client")
        self._entries[entry.client] = entry, self._owner

    async def meta(self, key: str, value: str) -> str:
        """See `Ledger`."""
        return self._meta.setdefault(key, value)

    async def keep(self, key: str, value: str) -> None:
        """See `Ledger`."""
        self._meta[key] = value

    async def started(self, after: float, until: float) -> list[Entry]:
        """See `Ledger`."""
        return [entry for entry, _ in self._entries.values() if after < entry.started <= until]

    async def configs(self) -> Mapping[str, Mapping[str, Any]]:
        """See `Ledger`."""
        return dict(self._configs)

    async def add_config(self, digest: str, config: Mapping[str, Any]) -> None:
        """See `Ledger`."""
        self._configs[digest] = dict(config)

    async def probe(self) -> None:
        """Do nothing: memory can be written."""

    async def blocked(self, counts: Callable[[bytes], bool]) -> int:
        """See `Ledger`."""
        return sum(entry.blocked > 0 and counts(client) for client, (entry, _) in self._entries.items())

    async def prune(self, before: float) -> int:
        """See `Ledger`."""
        old = [client for client, (entry, _) in self._entries.items() if entry.blocked == 0 and entry.started < before]
        for client in old:
            del self._entries[client]
        return len(old)
