"""The settings of a guard: the file ``guard.toml``, all of whose keys are checked."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from mifsim.errors import GuardError
from mifsim.guard.tables import (
    Identity,
    Images,
    LedgerSettings,
    Limits,
    Listen,
    LogSettings,
    Sessions,
    Table,
    Upstream,
    WatchSettings,
)
from mifsim.guard.wire import WIRES
from mifsim.limits import read_plain
from mifsim.study.messages import explain

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 2**20
_NOT_RELOADED = ("ledger", "identity", "limits", "listen")


class GuardConfig(Table):
    """All settings of a guard.

    Examples
    --------
    >>> config = GuardConfig.parse({"filter": "filter.toml", "sessions": {"period": "8h"}})
    >>> config.sessions.period, config.identity.source
    ('8h', 'bearer')
    """

    filter: str = Field("", description="the filter.toml of a calibration")
    uncertified: bool = Field(
        False, description="start although the settings contradict what the filter was certified for; shown in /metrics"
    )
    wires: list[str] = Field(default_factory=lambda: list(WIRES), description="formats of requests that are accepted")
    upstream: Upstream = Field(Upstream(), description="the model server")
    images: Images = Field(Images(), description="how images arrive, and what the model returns")
    identity: Identity = Field(Identity(), description="who a client is")
    sessions: Sessions = Field(Sessions(), description="where a session ends")
    ledger: LedgerSettings = Field(LedgerSettings(), description="where counts are kept")
    log: LogSettings = Field(LogSettings(), description="the log of the queries")
    watch: WatchSettings = Field(
        WatchSettings(), description="tests whether the traffic keeps the promise of the filter"
    )
    limits: Limits = Field(Limits(), description="limits of memory, and of requests at a time")
    listen: Listen = Field(Listen(), description="where the guard listens")

    @field_validator("wires")
    @classmethod
    def _wires(cls, value: list[str]) -> list[str]:
        unknown = [name for name in value if name not in WIRES]
        if unknown or not value:
            raise ValueError(f"{unknown or value!r}: must be some of {', '.join(WIRES)}")
        return value

    @classmethod
    def parse(cls, plain: Mapping[str, Any], name: object = "guard.toml") -> GuardConfig:
        """Return the settings of a mapping.

        Raises
        ------
        GuardError
            If a key or value is not accepted. The message names `name`, key, value and what is accepted.
        """
        try:
            return cls.model_validate(dict(plain))
        except ValidationError as error:
            raise GuardError(f"{name}: " + "; ".join(explain(error, cls))) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GuardConfig:
        """Read the settings from a file; relative paths in it start at its folder.

        Raises
        ------
        GuardError
            If the file cannot be read, or a key or value is not accepted.
        """
        try:
            plain = tomllib.loads(read_plain(Path(path), MAX_FILE_BYTES).decode())
        except OSError as error:
            raise GuardError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (ValueError, UnicodeDecodeError) as error:
            raise GuardError(f"{path}: not a TOML file: {error}") from None
        return cls.parse(plain, path).beside(Path(path).parent)

    def reloaded(self, running: GuardConfig) -> GuardConfig:
        """Return these settings, but with the tables of the running guard that a reload does not change.

        A warning names the tables that would have changed.
        """
        ignored = {"memory_mb"}  # each worker has its part of it
        kept = [
            name
            for name in _NOT_RELOADED
            if getattr(self, name).model_dump(exclude=ignored) != getattr(running, name).model_dump(exclude=ignored)
        ]
        if kept:
            logger.warning("a reload does not change %s: restart the guard", ", ".join(f"[{name}]" for name in kept))
        return self.model_copy(update={name: getattr(running, name) for name in _NOT_RELOADED})

    def beside(self, folder: Path) -> GuardConfig:
        """Return the settings with relative paths that start at a folder."""

        def absolute(path: str) -> str:
            return str(folder / path) if path else path

        kind, _, path = self.ledger.url.partition(":")
        ledger = f"sqlite:{absolute(path)}" if kind == "sqlite" else self.ledger.url
        files = {name: absolute(getattr(self.ledger, name)) for name in ("password_file", "authority")}
        listen = {
            name: absolute(getattr(self.listen, name)) for name in ("certificate", "private_key", "client_authority")
        }
        return self.model_copy(
            update={
                "filter": absolute(self.filter),
                "ledger": self.ledger.model_copy(update={"url": ledger, **files}),
                "log": self.log.model_copy(update={"folder": absolute(self.log.folder)}),
                "identity": self.identity.model_copy(update={"key_file": absolute(self.identity.key_file)}),
                "listen": self.listen.model_copy(update=listen),
            }
        )
