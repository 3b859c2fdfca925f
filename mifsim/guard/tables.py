"""The tables of ``guard.toml``."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mifsim.addresses import is_loopback
from mifsim.guard.durations import ACCEPTED, parse_duration
from mifsim.guard.wire import WIRES
from mifsim.study.wire import ResponsePolicy, Transport

CERTIFIED: Final = "certified"
"""Value of a setting that is that of the certified filter."""


REDIS_URL: Final = re.compile(
    r"(?P<scheme>rediss?)://((?P<user>[^\s/?#:@]+)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
    r"(:(?P<port>[0-9]{1,5}))?(/(?P<db>[0-9]{1,4})?)?"
)
"""URLs of a Redis server, without a password."""


class Table(BaseModel):
    """A table of ``guard.toml``; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Upstream(Table):
    """The ``[upstream]`` table: the model server."""

    url: str = Field("", description="base URL of the model server, such as http://127.0.0.1:8501")
    wire: str = Field("same", description='format of its requests: "same" as the client\'s, or the name of a wire')
    path: str = Field("", description='path of its requests, if wire is not "same"')
    forward: Literal["seen", "original"] = Field(
        "seen", description='"seen": the image that the detector judged; "original": the bytes that the client sent'
    )
    output: str = Field(
        "",
        description="where the confidences are in its answers: the name of an output, or a JSON pointer for wires "
        "without one; empty: the only output",
    )
    timeout: float = Field(30.0, gt=0, le=3600, description="seconds to wait for an answer")
    connections: int = Field(
        100, ge=1, le=10_000, description="largest number of connections to it, of each of listen.workers"
    )
    answer_bytes: int = Field(64 * 2**20, ge=1024, description="largest size of an answer")
    unjudged: list[str] = Field(
        default_factory=list,
        description='requests that are passed on without a verdict, such as "GET /docs*"; * stands for any text',
    )

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", value):
            raise ValueError("must be a URL such as http://127.0.0.1:8501")
        return value.rstrip("/")

    @field_validator("wire")
    @classmethod
    def _wire(cls, value: str) -> str:
        if value != "same" and value not in WIRES:
            raise ValueError(f"must be one of same, {', '.join(WIRES)}")
        return value

    @field_validator("unjudged")
    @classmethod
    def _patterns(cls, value: list[str]) -> list[str]:
        for item in value:
            if not re.fullmatch(r"[A-Z*]+ /\S*", item):
                raise ValueError(f'{item!r}: must be a method and a path, such as "GET /docs*"')
        return value


class Images(Table):
    """The ``[images]`` table: how images arrive, and what the model returns."""

    shape: list[int] = Field(default_factory=list, description="shape of the model's images; empty: the certified one")
    fit: Literal["certified", "cut", "squash", "pad"] = Field(
        CERTIFIED, description='treatment of an image file of another aspect ratio: "certified", or as in a study'
    )
    background: list[int] | Literal["certified"] = Field(
        CERTIFIED,
        description='[red, green, blue] behind transparent pixels and of padding: "certified", or as in a study',
    )
    transport: str = Field(CERTIFIED, description='"certified", "float32", "uint8" or "jpeg-Q"; as in a study')
    response: str = Field(
        CERTIFIED, description='what clients receive: "certified", "label", "top-K", "rounded-D" or "confidence"'
    )
    white: Literal[1, 255] = Field(1, description="value of a white pixel in arrays of numbers other than uint8")
    layout: Literal["channels-last", "channels-first"] = Field(
        "channels-last", description="order of the dimensions of colour images in arrays"
    )

    @field_validator("shape")
    @classmethod
    def _shape(cls, value: list[int]) -> list[int]:
        if value and (len(value) not in (2, 3) or min(value) < 1 or (len(value) == 3 and value[2] not in (1, 3))):
            raise ValueError("must be [height, width] or [height, width, channels], with 1 or 3 channels")
        return value

    @field_validator("background")
    @classmethod
    def _background(cls, value: list[int] | str) -> list[int] | str:
        if not isinstance(value, str) and (len(value) != 3 or not all(0 <= part <= 255 for part in value)):
            raise ValueError('must be "certified" or [red, green, blue], each from 0 to 255')
        return value

    @field_validator("transport")
    @classmethod
    def _transport(cls, value: str) -> str:
        if value != CERTIFIED:
            Transport.parse(value)
        return value

    @field_validator("response")
    @classmethod
    def _response(cls, value: str) -> str:
        if value != CERTIFIED:
            ResponsePolicy.parse(value)
        return value


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

    period: str = Field(
        "1d",
        description='a session ends this long after its first query ("forever": never). An attacker who waits can send '
        "the number of queries before a block again in each period",
    )
    gap: str = Field(
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

    @field_validator("period")
    @classmethod
    def _period(cls, value: str) -> str:
        parse_duration(value, "forever")
        return value

    @field_validator("gap")
    @classmethod
    def _gap(cls, value: str) -> str:
        parse_duration(value, "none")
        return value

    @field_validator("max_queries", mode="before")
    @classmethod
    def _max_queries(cls, value: Any) -> Any:
        if value != CERTIFIED and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError('must be a whole number of at least 1, or "certified"')
        return value


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


class WatchSettings(Table):
    """The ``[watch]`` table: tests whether the traffic keeps the promise of the filter. Alarms change no verdict."""

    on: bool = Field(
        True, description="watch the share of blocked sessions, near misses and lengths; see `mifsim watch`"
    )
    age: str = Field(
        "1h",
        description="a session is decided when it is as old as this; it counts as blocked if it was blocked by then",
    )
    delta: float = Field(0.05, gt=0, lt=1, description="probability of a false alarm ever, of each test")
    run_length: float = Field(
        10_000, gt=1, description="least mean number of sessions until a false alarm of the test for late changes"
    )
    restart: int = Field(
        0, ge=0, description="another number starts the watch anew, such as after the cause of an alarm was removed"
    )

    @field_validator("age")
    @classmethod
    def _age(cls, value: str) -> str:
        try:
            parse_duration(value, "no end")
        except ValueError:
            raise ValueError(f"must be {ACCEPTED}") from None
        return value


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
    retention: str = Field("30d", description='older files are deleted ("forever": none is)')
    rotate: str = Field("1h", description='a file is complete this long after its start ("never": only by size)')
    rotate_mb: int = Field(64, ge=1, le=4096, description="a file is also complete at this size, in MiB")
    required: bool = Field(
        True, description="refuse queries (503) while the log cannot be written; if false, rows are dropped and counted"
    )

    @field_validator("retention")
    @classmethod
    def _retention(cls, value: str) -> str:
        parse_duration(value, "forever")
        return value

    @field_validator("rotate")
    @classmethod
    def _rotate(cls, value: str) -> str:
        parse_duration(value, "never")
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


class Listen(Table):
    """The ``[listen]`` table."""

    host: str = Field("127.0.0.1", description="address")
    port: int = Field(8080, ge=0, le=65_535, description="port; 0: any free one")
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="server processes; each client belongs to one of them, which judges all its queries. Their "
        "connections to each other are private",
    )
    metrics: bool = Field(
        True, description="serve /metrics, of all workers; each value has a label worker. Keep it from clients"
    )
    grace: float = Field(30.0, ge=0, description="seconds for open requests, after SIGTERM")
    drain: float = Field(
        0.0, ge=0, description="seconds after SIGTERM in which /readyz is false and requests are taken"
    )
    certificate: str = Field("", description="file of the TLS certificate (PEM); empty: plain HTTP")
    private_key: str = Field("", description="file of its key (PEM)")
    client_authority: str = Field("", description="file of the authority that signs the certificates of clients (PEM)")
