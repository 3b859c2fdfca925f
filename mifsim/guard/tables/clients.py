"""Tables of ``guard.toml`` about clients: who they are, how long a session is, and what is too much."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mifsim.guard.tables.base import CERTIFIED, Table, duration


class Identity(Table):
    """The ``[identity]`` table: who a client is. It is hashed with a key before it is stored."""

    source: str = Field(
        "bearer",
        description='"header:NAME" (set by your proxy), "bearer" (the token in Authorization), "certificate" (subject '
        'of the TLS certificate) or "address"',
    )
    anonymous: Literal["refuse", "address"] = Field(
        "refuse", description='client without identity: "refuse", or use its "address"'
    )
    key_file: str = Field("", description="file of the key; empty: beside the ledger; it is made if it does not exist")
    trusted_proxies: list[str] = Field(
        default_factory=list, description="addresses of proxies whose X-Forwarded-For header names the client's address"
    )

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        if value not in ("bearer", "certificate", "address") and not re.fullmatch(r"header:[A-Za-z0-9-]{1,80}", value):
            raise ValueError("must be header:NAME, bearer, certificate or address")
        return value


class Sessions(Table):
    """The ``[sessions]`` table: where a session ends. A new session has a new detector; a block stays."""

    period: Annotated[str, duration("forever")] = Field(
        "1d",
        description='a session ends this long after its first query ("forever": never). An attacker who waits can send '
        "the number of queries before a block again in each period",
    )
    gap: Annotated[str, duration("none")] = Field(
        "none", description='a session also ends after this time without a query ("none": it does not); see period'
    )
    max_queries: int | Literal["certified"] = Field(
        CERTIFIED,
        description="largest number of queries of a session, after which queries are refused until it ends; "
        '"certified": that of the longest session of the calibration',
    )
    block: Literal["forever", "period"] = Field(
        "forever", description='how long a blocked client is refused: "forever", or until its session\'s "period" ends'
    )
    count_unanswered: bool = Field(
        False,
        description="count queries that the model server did not answer, as Algorithm 1 does by its letter. If false, "
        "they are undone, so that an outage blocks nobody; a session's queries are then forwarded one at a time",
    )

    @field_validator("max_queries", mode="before")
    @classmethod
    def _max_queries(cls, value: Any) -> Any:
        if value != CERTIFIED and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError('must be a whole number of at least 1, or "certified"')
        return value


class Limits(Table):
    """The ``[limits]`` table."""

    body_bytes: int = Field(16 * 2**20, ge=1024, description="largest request")
    body_seconds: float = Field(30.0, gt=0, description="longest time in which a request must arrive")
    batch: int = Field(256, ge=1, description="largest number of images of a request; each is a query")
    waiting: int = Field(32, ge=1, description="largest number of requests of one client that wait for each other")
    concurrent: int = Field(1024, ge=1, description="largest number of requests at a time, in each of listen.workers")
    memory_mb: int = Field(
        1024,
        ge=1,
        description="memory for the images of sessions, of all listen.workers together; above it, those of idle "
        "sessions are forgotten",
    )
    idempotency_keys: int = Field(64, ge=0, description="answers that are kept of each session, by Idempotency-Key")
