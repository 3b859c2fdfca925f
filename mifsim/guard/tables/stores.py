"""Tables of ``guard.toml`` about what a guard stores: the ledger of the counts, and the log of the queries."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from mifsim.addresses import is_loopback
from mifsim.guard.tables.base import Table, duration

REDIS_URL: Final = re.compile(
    r"(?P<scheme>rediss?)://((?P<user>[^\s/?#:@]+)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
    r"(:(?P<port>[0-9]{1,5}))?(/(?P<db>[0-9]{1,4})?)?"
)
"""URLs of a Redis server, without a password."""


class LedgerSettings(Table):
    """The ``[ledger]`` table: where counts are kept. A count is written before the model is asked."""

    url: str = Field(
        "sqlite:guard.db",
        description='"sqlite:PATH"; "redis://HOST:PORT/DB" or, over TLS, "rediss://USER@HOST:PORT/DB" for guards on '
        'several machines, which needs the extra redis; "memory:" (counts end with the process)',
    )
    on_failure: Literal["closed", "open"] = Field(
        "closed",
        description='if it cannot be written: "closed" refuses queries (503), "open" passes them on, and counts and '
        "marks each one",
    )
    synchronous: Literal["normal", "full"] = Field(
        "normal",
        description='"normal" survives the end of the process; "full" also a power failure, but is slow; with Redis, '
        "it requires appendfsync always",
    )
    password_env: str = Field("", description="environment variable with the password of Redis")
    password_file: str = Field("", description="file with the password of Redis, in place of password_env")
    authority: str = Field(
        "", description="file of the authority that signs the certificate of Redis (PEM); empty: those of the system"
    )
    plain: bool = Field(False, description="accept redis://, which is not encrypted, to another machine")
    timeout: float = Field(2.0, gt=0, le=60, description="seconds to wait for Redis")

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if "redis" in value.partition(":")[0]:
            return value  # see `_redis`, whose messages do not show a password
        if value != "memory:" and not re.fullmatch(r"sqlite:.+", value):
            raise ValueError("must be sqlite:PATH, redis://HOST, rediss://HOST or memory:")
        return value

    @model_validator(mode="after")
    def _redis(self) -> LedgerSettings:
        if self.url.startswith(("sqlite:", "memory:")):
            return self
        match = REDIS_URL.fullmatch(self.url)
        if match is None:
            raise ValueError(
                ".url: must be redis://HOST:PORT/DB or rediss://USER@HOST:PORT/DB; the password is in the file "
                "ledger.password_file or in the environment variable ledger.password_env"
            )
        if match["scheme"] == "redis" and not self.plain and not is_loopback(match["host"].strip("[]")):
            raise ValueError(
                f".url = {self.url!r}: is not encrypted (expected rediss://, a server on this machine, or "
                "ledger.plain = true)"
            )
        if self.password_env and self.password_file:
            raise ValueError(".password_file: must not be given together with ledger.password_env")
        return self


class LogSettings(Table):
    """The ``[log]`` table: a log of the queries, which a calibration reads as it is. Images are personal data."""

    folder: str = Field("", description="folder of the traffic log, private to its owner; empty: no log")
    images: Literal["all", "none"] = Field(
        "all", description='"none" leaves out the images: the log has counts and verdicts, and cannot be replayed'
    )
    sessions: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of sessions that are logged, chosen by a keyed digest of their id (of the client's, if the "
        "filter's scope is the client)",
    )
    retention: Annotated[str, duration("forever")] = Field(
        "30d", description='older files are deleted ("forever": none is)'
    )
    rotate: Annotated[str, duration("never")] = Field(
        "1h", description='a file is complete this long after its start ("never": only by size)'
    )
    rotate_mb: int = Field(64, ge=1, le=4096, description="a file is also complete at this size, in MiB")
    required: bool = Field(
        True, description="refuse queries (503) while the log cannot be written; if false, rows are dropped and counted"
    )
