"""The sections ``[server]``, ``[leakage]`` and ``[[filters]]`` of a study."""

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
"""Number of actors; ``"auto"``: derived from the cluster's resources."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]*$", max_length=60)]
"""A name that a session id can contain: letters, digits, spaces and ``. _ + -``; it starts with a letter or digit."""


class Section(BaseModel):
    """A section of a study; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(Section):
    """The ``[server]`` section: transport, response policy, and distribution of the work."""

    transport: str = Field(
        "float32", description='encoding in which images arrive: "float32", "uint8", "jpeg-Q" (Q: 1 to 100)'
    )
    response: str = Field(
        "confidence", description='what the server returns: "label", "top-K", "rounded-D" (D decimals), "confidence"'
    )
    hosts: Count = Field(
        "auto",
        description="number of session host actors; auto: one for each CPU that the copies of the model leave, or, on "
        "fewer than 4 CPUs, for each CPU; does not change the rows",
    )
    model_replicas: Count = Field(
        "auto",
        description="number of copies of the model, each of which serves a share of the hosts; auto: one on each node "
        "with a GPU or, if no node has a GPU, on each node with 4 CPUs or more; does not change the rows",
    )
    grow_seconds: int = Field(
        0,
        ge=0,
        le=86_400,
        description="on an autoscaled cluster: seconds to wait for resources for all hosts and copies of the model, "
        "before the run starts with the resources available",
    )
    sessions_per_host: int = Field(
        1536, ge=1, description="sessions that a host runs concurrently; memory grows with it (n_b images per session)"
    )
    batch_size: int = Field(
        256, ge=1, le=65536, description="fixed batch size of the model; smaller batches are padded"
    )

    @field_validator("hosts", "model_replicas", mode="wrap")
    @classmethod
    def _single_message(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Replace pydantic's separate errors for each branch of the union by one message."""
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
    """The ``[leakage]`` section: which reconstructions are kept, and scored after the run."""

    enabled: bool = Field(
        True, description="score the attackers' reconstructions by an evaluator with another architecture"
    )
    snapshots_per_decade: int = Field(
        4, ge=1, le=20, description="reconstructions kept between query 10^k and 10^(k+1)"
    )
    baseline_images: int = Field(
        20,
        ge=1,
        description="images per class for each baseline (random images, auxiliary images, auxiliary images that the "
        "model labels as the class)",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_0_1_0(cls, value: Any) -> Any:
        """Accept ``floor_images``, the name of ``baseline_images`` in mifsim 0.1.0."""
        if isinstance(value, Mapping) and "floor_images" in value and "baseline_images" not in value:
            value = {"baseline_images" if key == "floor_images" else key: item for key, item in value.items()}
        return value


class MemberSpace(Section):
    """A ``[[tuning.of]]`` table: a member of the kind ``any-of``, and what is searched of it."""

    kind: str = Field(description="kind of the member")
    view: dict[str, Any] | None = Field(None, description="as in [tuning]; absent: that of [tuning]")
    space: dict[str, Any] = Field(default_factory=dict, description="as in [tuning]")
    fit: str = Field("", description="as in [tuning]")

    def to_toml(self) -> dict[str, Any]:
        """Return the table without an absent view and an empty fit."""
        plain = self.model_dump(mode="json", exclude_none=True)
        return {key: value for key, value in plain.items() if key != "fit" or value}


class Filter(Section):
    """A ``[[filters]]`` table: a detector's name, kind and parameters; the kind ``none`` is no detector."""

    name: Name = Field(description="name of the filter in the tables")
    config: InstanceOf[DetectorConfig] = Field(description="configuration of the detector")

    @property
    def undefended(self) -> bool:
        """Whether the detector's kind is ``none``."""
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
                raise ValueError(
                    f"a filter with none = true accepts no other key than name; got {', '.join(set(rest) - {'none'})}"
                )
            return {"name": name if name is not None else "none", "config": NoDefenseConfig()}
        rest.pop("none", None)
        if "file" in rest:
            path = rest.pop("file")
            if rest:
                raise ValueError(f"a filter from a file accepts no other key than name; got {', '.join(rest)}")
            return {"name": name, "config": load_config(path)}
        if not rest:
            raise ValueError(
                'missing parameters (accepted: kind with its parameters, such as kind = "ssim-hash" with t_ssim, '
                "t_hash, n_b and l_sp; none = true; or file)"
            )
        if name is None and rest.get("kind") == "none":
            name = "none"
        return {"name": name, "config": read_config(rest)}

    def to_toml(self) -> dict[str, Any]:
        """Return the filter as a TOML table, with all defaults."""
        return {"name": self.name, **self.config.to_dict()}
