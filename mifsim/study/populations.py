"""Populations of clients: attackers and honest users."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

from mifsim.clients import ATTACKS, EVASIONS, USERS, client_class, evasion_class
from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.protocol import Client, ClientGenerator, World
from mifsim.clients.users.log import Log
from mifsim.data.logs import LogSessions
from mifsim.errors import UserError
from mifsim.study.messages import explain
from mifsim.study.sections import Name, Section


class Population(Section):
    """Several clients of one kind; keys that are not fields of the population are arguments of the client."""

    ROLE: ClassVar[str]
    KIND_KEY: ClassVar[str]
    """The key of a study's table that names the kind of client."""
    EXAMPLE: ClassVar[str]

    name: Name
    client: Client
    budget_queries: int

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or isinstance(value.get("client"), Client):
            return value
        own_keys = {key: value[key] for key in value if key in cls.model_fields and key != "client"}
        rest = {key: value[key] for key in value if key not in own_keys}
        role, kind_key = cls.ROLE, cls.KIND_KEY
        kind = rest.pop(kind_key, None)
        if not isinstance(kind, str):
            raise ValueError(f"missing key {kind_key!r}: the kind of {role}, such as {cls.EXAMPLE!r}")
        try:
            found = client_class(kind)
        except UserError as error:
            raise ValueError(str(error)) from None
        if found.role != role:
            article = {"attacker": "an attack", "user": "a user"}
            raise ValueError(f"{kind!r} is {article[found.role]}, not {article[role]}")
        for key in rest:
            if key not in found.model_fields:
                accepted = [*(k for k in cls.model_fields if k != "client"), kind_key, *found.model_fields]
                near = difflib.get_close_matches(key, accepted, 1, 0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"unknown key {key!r}{hint} (accepted: {', '.join(sorted(accepted))})")
        try:
            client = found.model_validate(rest)
        except ValidationError as error:
            raise ValueError("; ".join(explain(error, found))) from None
        return {"name": cls.default_name(kind, own_keys), **own_keys, "client": client}

    @classmethod
    def default_name(cls, kind: str, own_keys: Mapping[str, Any]) -> str:
        """Return the name of a population for which the study gives none."""
        return kind

    @property
    def closed_loop(self) -> bool:
        """Whether the clients react to a refusal, so that recordings of them cannot be replayed."""
        return self.client.closed_loop

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one client."""
        return self.client.run(world, rng)

    def to_toml(self) -> dict[str, Any]:
        """Return the population as a TOML table: its keys and the client's arguments, with all defaults."""
        own_keys = self.model_dump(mode="json", exclude={"client", "evasions"}, exclude_none=True)
        return {
            self.KIND_KEY: client_name(self.client),
            **own_keys,
            **self.client.model_dump(mode="json", exclude_none=True),
        }


class Attacks(Population):
    """Attackers of one kind with the same evasions, `trials` of them for each class under attack."""

    evasions: tuple[SerializeAsAny[Evasion], ...] = Field(
        (), description="evasions that wrap the attack, innermost first, such as [{decoys = 10}, {rotate = {}}]"
    )
    labels: Literal["all"] | list[Annotated[int, Field(ge=0)]] = Field("all", description="classes under attack")
    trials: int = Field(1, ge=1, description="attackers per class")
    budget_queries: int = Field(
        1000, ge=1, description="maximum number of queries of one attacker, over all its sessions"
    )

    ROLE: ClassVar[str] = "attacker"
    KIND_KEY: ClassVar[str] = "attack"
    EXAMPLE: ClassVar[str] = "mi-face"

    @field_validator("evasions", mode="before")
    @classmethod
    def _named_evasions(cls, value: Any) -> Any:
        return read_evasions(value)

    @classmethod
    def default_name(cls, kind: str, own_keys: Mapping[str, Any]) -> str:
        """Return the attack's name joined with those of its evasions, such as ``mi-face+decoys+rotate``."""
        given = own_keys.get("evasions", ())
        evasion_rows = [str(next(iter(item))) for item in given if isinstance(item, Mapping) and item]
        return "+".join([kind, *evasion_rows])

    @property
    def closed_loop(self) -> bool:
        """Whether the attack or one of its evasions reacts to a refusal or leaves sessions."""
        return self.client.closed_loop or any(evasion.closed_loop for evasion in self.evasions)

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one client."""
        start: Start = self.client.run
        for evasion in self.evasions:
            start = partial(evasion.run, start)
        return start(world, rng)

    def to_toml(self) -> dict[str, Any]:
        """Return the population as a TOML table; see `Population.to_toml`."""
        plain = super().to_toml()
        if self.evasions:
            plain["evasions"] = [
                {evasion_name(evasion): evasion.model_dump(mode="json", exclude_none=True)} for evasion in self.evasions
            ]
        return plain


class Users(Population):
    """Honest users of one kind (a workload)."""

    sessions: Literal["all"] | Annotated[int, Field(ge=1)] = Field(
        100, description='number of users; for a log, of its clients, each with all its sessions; "all": every client'
    )
    budget_queries: int = Field(100_000, ge=1, description="maximum number of queries of one session")
    repeat_images: bool = Field(
        False,
        description="whether a session that needs more different images than there are may send its images again, in "
        "the same order; otherwise such a study is refused",
    )

    ROLE: ClassVar[str] = "user"
    KIND_KEY: ClassVar[str] = "user"
    EXAMPLE: ClassVar[str] = "independent"

    @model_validator(mode="after")
    def _check_sessions(self) -> Users:
        if isinstance(self.client, Log):
            if not self.client.path:
                raise ValueError("user = 'log' requires the key 'path' (accepted: a Parquet file or a folder)")
        elif self.sessions == "all":
            raise ValueError("sessions = 'all' requires user = 'log' (accepted here: a whole number of at least 1)")
        return self

    def log(self) -> LogSessions | None:
        """Return the log that these users replay; None if they draw their images from the data set.

        Raises
        ------
        DataError
            If the log is not valid.
        """
        return self.client.log() if isinstance(self.client, Log) else None

    @property
    def count(self) -> int:
        """The number of users; for ``"all"``, the number of clients of the log."""
        if self.sessions != "all":
            return self.sessions
        log = self.log()
        assert log is not None, "checked when the study was read"
        return len(log)


def read_evasions(tables: object) -> tuple[Evasion, ...]:
    """Read a list of evasions.

    Raises
    ------
    ValueError
        If it is not valid; the message says what is accepted.
    """
    if not isinstance(tables, (list, tuple)):
        raise ValueError("must be a list of tables with one key each, such as [{decoys = 10}, {rotate = {}}]")
    return tuple(item if isinstance(item, Evasion) else read_evasion(item) for item in tables)


def read_evasion(table: object) -> Evasion:
    """Read one evasion.

    Raises
    ------
    ValueError
        If it is not valid; the message says what is accepted.
    """
    if not isinstance(table, Mapping) or len(table) != 1:
        raise ValueError(
            f"each must be a table with one key, such as {{decoys = 10}} or {{rotate = {{}}}}; got {table!r}"
        )
    ((kind, given),) = table.items()
    try:
        found = evasion_class(str(kind))
    except UserError as error:
        raise ValueError(str(error)) from None
    if not isinstance(given, Mapping):
        if found.main is None:
            raise ValueError(
                f"{kind} = {given!r}: must be a table of arguments (accepted: {', '.join(found.model_fields)})"
            )
        given = {found.main: given}
    try:
        return found.model_validate(given)
    except ValidationError as error:
        raise ValueError("; ".join(f"{kind}.{line}" for line in explain(error, found))) from None


def evasion_name(evasion: Evasion) -> str:
    """Return the name under which the class of an evasion is registered."""
    return EVASIONS.name_of(type(evasion))


def client_name(client: Client) -> str:
    """Return the name under which the class of a client is registered."""
    return (ATTACKS if client.role == "attacker" else USERS).name_of(type(client))
