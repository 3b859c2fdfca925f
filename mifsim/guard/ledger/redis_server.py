"""What a Redis server must be for a ledger: its password, and its durability."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from mifsim.errors import GuardError
from mifsim.guard.ledger.base import LedgerError
from mifsim.guard.tables import LedgerSettings
from mifsim.limits import read_plain

logger = logging.getLogger(__name__)

EXPECTED = "appendonly yes, appendfsync always, maxmemory-policy noeviction"
_KEYS = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
_MAX_PASSWORD_BYTES = 4096


def password_of(settings: LedgerSettings) -> str | None:
    """Return the password of the settings' file or environment variable; None if they name none.

    Raises
    ------
    GuardError
        If it cannot be read, or is empty.
    """
    password = None
    if settings.password_env:
        password = os.environ.get(settings.password_env, "")
        if not password:
            raise GuardError(
                f"ledger.password_env = {settings.password_env!r}: this environment variable is not set or empty"
            )
    elif settings.password_file:
        try:
            password = read_plain(Path(settings.password_file), _MAX_PASSWORD_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise GuardError(f"ledger.password_file = {settings.password_file!r}: cannot be read: {error}") from None
        if not password:
            raise GuardError(f"ledger.password_file = {settings.password_file!r}: is empty (expected a password)")
    return password


async def check_durability(redis: Redis, url: str, power_failure: bool) -> None:
    """Refuse a server that loses counts, as far as it states its configuration.

    Parameters
    ----------
    redis : Redis
    url : str
        For messages.
    power_failure : bool
        Whether counts must survive a power failure of the server.

    Raises
    ------
    LedgerError
        If the server keeps no log of its writes, may delete keys when its memory is full, or writes too late.
    """
    found = await _configuration(redis)
    if found.get("appendonly") == "no":
        raise LedgerError(f"{url}: appendonly is no, so that counts end with the server (expected: {EXPECTED})")
    policy = found.get("maxmemory-policy", "noeviction")
    if policy != "noeviction" and found.get("maxmemory", "0") != "0":
        raise LedgerError(f"{url}: maxmemory-policy is {policy}, which deletes counts (expected: {EXPECTED})")
    written = found.get("appendfsync")
    if power_failure and written not in (None, "always"):
        raise LedgerError(
            f"{url}: appendfsync is {written} (expected always, because ledger.synchronous is full; or normal)"
        )
    if "appendonly" not in found or written is None:
        logger.warning("ledger: %s does not state its whole configuration (expected: %s)", url, EXPECTED)
    elif written != "always":
        logger.warning(
            "ledger: %s: appendfsync is %s: a power failure of its machine can lose the counts of the last seconds "
            "(always prevents it)",
            url,
            written,
        )


async def _configuration(redis: Redis) -> dict[str, str]:
    """Return what the server states of `_KEYS`, by CONFIG or, if this is not permitted, by INFO."""
    found: dict[str, str] = {}
    try:
        for key in _KEYS:
            answer: Any = await redis.config_get(key)
            found |= {str(name): str(value) for name, value in answer.items()}
    except ResponseError:
        try:
            info: Any = await redis.info()
        except ResponseError:
            return found
        names = {"maxmemory": "maxmemory", "maxmemory_policy": "maxmemory-policy"}
        found |= {key: str(info[name]) for name, key in names.items() if name in info}
        if "aof_enabled" in info:
            found["appendonly"] = "yes" if info["aof_enabled"] else "no"
    return found
