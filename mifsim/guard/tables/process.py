"""Tables of ``guard.toml`` about the running guard: its processes and connections, and the watch."""

from __future__ import annotations

from pydantic import Field, field_validator

from mifsim.guard.durations import ACCEPTED, parse_duration
from mifsim.guard.tables.base import Table


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
