"""The sections of a study that are not clients: the server, the filters under test, leakage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mifsim.defense import DetectorConfig, NoDefenseConfig, load_config, read_config
from mifsim.study.wire import ResponsePolicy, Transport

Count = Literal["auto"] | Annotated[int, Field(ge=1)]
"""Of actors: a number, or as many as the cluster suggests."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]*$", max_length=60)]
"""A name that can stand in a session's id: letters, digits, space and ``. _ + -``."""


class Section(BaseModel):
    """A table of a study: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(Section):
    """The server: what it lets in and out, and how its work is spread."""

    transport: str = Field("float32", description='what arrives of an image: "float32", "uint8", "jpeg-Q"')
    response: str = Field("confidence", description='what goes back: "label", "top-K", "rounded-D", "confidence"')
    hosts: Count = Field("auto", description="session host actors; auto: one a CPU that the model leaves free")
    model_replicas: Count = Field(
        "auto",
        description="copies of the model, each asked by its share of the hosts; auto: one on each node with a GPU, or "
        "where no node has one, on each of 4 CPUs or more; the rows do not change",
    )
    grow_seconds: int = Field(
        0,
        ge=0,
        le=86_400,
        description="on a cluster that grows by itself: how long to wait for a CPU for each host and each copy of the "
        "model, before the run takes what is there",
    )
    sessions_per_host: int = Field(
        1536, ge=1, description="sessions that a host runs at a time, each with n_b images; 1: an actor a session"
    )
    batch_size: int = Field(256, ge=1, le=65536, description="the model's fixed, padded batch")

    @field_validator("hosts", "model_replicas", mode="wrap")
    @classmethod
    def _told_once(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Say what is accepted in one line: pydantic would report each branch of the union by itself."""
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("count", 'must be "auto" or a whole number of at least 1') from None

    @field_validator("transport")
    @classmethod
    def _known_transport(cls, value: str) -> str:
        Transport.parse(value)
        return value

    @field_validator("response")
    @classmethod
    def _known_response(cls, value: str) -> str:
        ResponsePolicy.parse(value)
        return value


class Leakage(Section):
    """What is kept of the attackers' best guesses, and scored after the run."""

    enabled: bool = Field(True, description="score the attackers' guesses by an evaluator of another architecture")
    snapshots_per_decade: int = Field(4, ge=1, le=20, description="guesses kept between query 10^k and 10^(k+1)")
    baseline_images: int = Field(20, ge=1, description="random images and zero-query prior samples scored a class")

    @model_validator(mode="before")
    @classmethod
    def _read_0_1_0(cls, value: Any) -> Any:
        """Take the name that mifsim 0.1.0 had for the images of the zero-query baselines."""
        if isinstance(value, Mapping) and "floor_images" in value and "baseline_images" not in value:
            value = {"baseline_images" if key == "floor_images" else key: item for key, item in value.items()}
        return value


class Filter(Section):
    """A detector under test: a kind and its parameters, or the kind ``none``."""

    name: Name = Field(description="what the tables call it")
    config: InstanceOf[DetectorConfig] = Field(description="its configuration")

    @property
    def undefended(self) -> bool:
        """Whether it is the null detector."""
        return self.config.kind == "none"

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "config" in value:
            return value
        rest = dict(value)
        name = rest.pop("name", None)
        if rest.get("none", False) is True:
            if set(rest) - {"none"}:
                raise ValueError(f"a filter with none = true takes no parameter, got {', '.join(set(rest) - {'none'})}")
            return {"name": name if name is not None else "none", "config": NoDefenseConfig()}
        rest.pop("none", None)
        if "file" in rest:
            path = rest.pop("file")
            if rest:
                raise ValueError(f"a filter from a file takes no other key, got {', '.join(rest)}")
            return {"name": name, "config": load_config(path)}
        if not rest:
            raise ValueError(
                'a filter needs a kind with its parameters, such as kind = "ssim-hash" with t_ssim, t_hash, n_b and '
                "l_sp; or none = true; or file"
            )
        if name is None and rest.get("kind") == "none":
            name = "none"
        return {"name": name, "config": read_config(rest)}

    def to_toml(self) -> dict[str, Any]:
        """Return the table as a study writes it."""
        return {"name": self.name, **self.config.to_dict()}
