"""Who asks: populations of attackers and of honest users."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from mifsim.clients import REGISTRY, client_class
from mifsim.clients.protocol import Client
from mifsim.clients.users.log import Log
from mifsim.data.query_log import QueryLog
from mifsim.errors import UserError
from mifsim.study.messages import explain
from mifsim.study.sections import Name, Section


class Population(Section):
    """Many clients of one kind. Keys that are not the population's own are the client's arguments."""

    ROLE: ClassVar[str]
    WORD: ClassVar[str]
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
        own = {key: value[key] for key in value if key in cls.model_fields and key != "client"}
        rest = {key: value[key] for key in value if key not in own}
        role, word = cls.ROLE, cls.WORD
        kind = rest.pop(word, None)
        if not isinstance(kind, str):
            raise ValueError(f"needs a key {word!r}: the kind of {role}, such as {cls.EXAMPLE!r}")
        try:
            found = client_class(kind)
        except UserError as error:
            raise ValueError(str(error)) from None
        if found.role != role:
            raise ValueError(f"{kind!r} is no {role} but a {found.role}")
        for key in rest:
            if key not in found.model_fields:
                accepted = [*(k for k in cls.model_fields if k != "client"), word, *found.model_fields]
                near = difflib.get_close_matches(key, accepted, 1, 0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"unknown key {key!r}{hint} (accepted: {', '.join(sorted(accepted))})")
        try:
            client = found.model_validate(rest)
        except ValidationError as error:
            raise ValueError("; ".join(explain(error, found))) from None
        return {"name": kind, **own, "client": client}

    def to_toml(self) -> dict[str, Any]:
        """Return the table as a study writes it: own keys and the client's arguments, every default filled in."""
        own = self.model_dump(mode="json", exclude={"client"}, exclude_none=True)
        return {
            self.WORD: client_name(self.client),
            **own,
            **self.client.model_dump(mode="json", exclude_none=True),
        }


class Attacks(Population):
    """Attackers of one kind: `trials` for each class under attack."""

    labels: Literal["all"] | list[Annotated[int, Field(ge=0)]] = Field("all", description="classes under attack")
    trials: int = Field(1, ge=1, description="attackers a class")
    budget_queries: int = Field(1000, ge=1, description="queries after which an attacker that is not blocked stops")

    ROLE: ClassVar[str] = "attacker"
    WORD: ClassVar[str] = "attack"
    EXAMPLE: ClassVar[str] = "mi-face"


class Users(Population):
    """Honest users of one kind: a workload."""

    sessions: Literal["all"] | Annotated[int, Field(ge=1)] = Field(
        100, description='how many users; "all": every client of a log'
    )
    budget_queries: int = Field(100_000, ge=1, description="a limit on one session, beside the length it draws")

    ROLE: ClassVar[str] = "user"
    WORD: ClassVar[str] = "user"
    EXAMPLE: ClassVar[str] = "independent"

    @model_validator(mode="after")
    def _whose_sessions(self) -> Users:
        if isinstance(self.client, Log):
            if not self.client.path:
                raise ValueError("user = 'log' needs a key 'path': a Parquet file, or a folder")
        elif self.sessions == "all":
            raise ValueError("sessions = 'all' goes with user = 'log'; accepted here: a number of at least 1")
        return self

    def log(self) -> QueryLog | None:
        """Return the log that these users replay; None where they draw on the data set.

        Raises
        ------
        DataError
            Where it cannot be used.
        """
        return self.client.log() if isinstance(self.client, Log) else None

    @property
    def count(self) -> int:
        """How many sessions there are, counted where it is all of a log."""
        if self.sessions != "all":
            return self.sessions
        log = self.log()
        assert log is not None, "checked when the study was read"
        return len(log)


def client_name(client: Client) -> str:
    """Return the registry's name of a client."""
    wanted = f"{type(client).__module__}:{type(client).__name__}"
    return next(name for name, place in REGISTRY.items() if place == wanted)
