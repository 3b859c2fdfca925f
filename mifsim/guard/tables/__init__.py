"""The tables of ``guard.toml``."""

from mifsim.guard.tables.base import CERTIFIED, Table
from mifsim.guard.tables.clients import Identity, Limits, Sessions
from mifsim.guard.tables.model import Images, Upstream
from mifsim.guard.tables.process import Listen, WatchSettings
from mifsim.guard.tables.stores import REDIS_URL, LedgerSettings, LogSettings

__all__ = [
    "CERTIFIED",
    "REDIS_URL",
    "Identity",
    "Images",
    "LedgerSettings",
    "Limits",
    "Listen",
    "LogSettings",
    "Sessions",
    "Table",
    "Upstream",
    "WatchSettings",
]
