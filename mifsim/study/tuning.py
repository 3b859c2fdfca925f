"""The section of a study that says how a detector is calibrated: what is searched, by whom, what is guaranteed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mifsim.defense import FilterConfig, View, config_class
from mifsim.defense.config import Scope
from mifsim.defense.config_file import DEFAULT_KIND
from mifsim.defense.space import SearchSpace
from mifsim.errors import ConfigError
from mifsim.study.sections import Name, Section

Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]

_FLAT_KEYS = (*FilterConfig.params, *FilterConfig.choices)
"""Parameters of ``ssim-hash`` that a study of mifsim 0.1.0 has in ``[tuning]`` itself, without a kind and a space."""


class Splits(Section):
    """Shares of the clients of each population for the search, the calibration (certification) and the figures."""

    search: Share = 0.4
    calibration: Share = 0.4
    test: Share = 0.2

    @model_validator(mode="after")
    def _sum_to_one(self) -> Splits:
        total = self.search + self.calibration + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-9):
            raise ValueError(f"search, calibration and test add up to {total:g}; they must add up to 1")
        return self


class Tuning(Section):
    """How a detector is calibrated."""

    kind: str = Field(DEFAULT_KIND, description="kind of the detector")
    scope: Scope = Field("session", description="whose state the detector is: the session's or the client's")
    view: dict[str, Any] | None = Field(
        None, description='what of an image it compares, such as {size = 64, colour = "grey"}; absent: all of it'
    )
    space: dict[str, Any] = Field(
        default_factory=dict,
        description="bounds of its parameters, such as t_ssim = {min = 0.5, max = 0.999}, and lists of its choices",
    )
    sampler: Literal["tpe", "nsga2"] = Field("tpe", description="who proposes configurations")
    trials: int = Field(300, ge=1, description="configurations tried")
    concurrent: int = Field(4, ge=1, le=1000, description="trials under way at once; proposals depend on it")
    attack: Literal["worst", "mean"] = Field("worst", description="which attack a configuration is judged by")
    leakage: bool = Field(False, description="whether leakage at block is a third objective")
    false_positive_budget: float = Field(
        0.10, gt=0, le=1, description="the search's constraint: configurations above it are of no interest"
    )
    false_positive_limit: Rate | dict[Name, Rate] = Field(
        0.01, description="false-positive rate that is guaranteed, for every workload or for each by name"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="of the guarantee")
    procedure: Literal["fixed_sequence", "holm"] = Field("fixed_sequence", description="how configurations are tested")
    splits: Splits = Splits()
    grid: dict[str, Annotated[int, Field(ge=2, le=1000)]] = Field(
        default_factory=dict,
        description="how many values of a parameter the exhaustive search tries that the trials are measured by, such "
        "as t_ssim = 32; only where the kind has such a search",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_0_1_0(cls, value: Any) -> Any:
        """Bring a section as mifsim 0.1.0 wrote it into today's form: it had one kind, and other names."""
        if not isinstance(value, Mapping):
            return value
        table = dict(value)
        flat = {key: table.pop(key) for key in _FLAT_KEYS if key in table}
        if flat and table.get("kind", DEFAULT_KIND) != DEFAULT_KIND:
            try:
                config_class(table["kind"])
            except ConfigError as error:
                raise ValueError(f".{error}") from None
            raise ValueError(f".{next(iter(flat))}: parameters go into [tuning.space] where a kind is named")
        if flat and isinstance(space := table.get("space", {}), Mapping):
            if twice := sorted(set(flat) & set(space)):
                raise ValueError(f".{twice[0]}: is in [tuning.space] too (expected once)")
            table["space"] = {**flat, **space}
        if isinstance(parts := table.get("parts"), Mapping) and "splits" not in table:
            del table["parts"]
            table["splits"] = {"calibration" if key == "certify" else key: share for key, share in parts.items()}
        return table

    @field_validator("false_positive_limit", mode="wrap")
    @classmethod
    def _one_message(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Say what is accepted in one line: pydantic would report each branch of the union by itself."""
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError(
                "limit",
                "must lie between 0 and 1, or be a table of such a number for each workload; got {value}",
                {"value": repr(value)},
            ) from None

    @model_validator(mode="after")
    def _space_of_kind(self) -> Tuning:
        try:
            view = View.parse(self.view)
            space = SearchSpace.parse(self.kind, self.space, self.scope, view)
        except ConfigError as error:
            raise ValueError(f".{error}") from None
        steps = space.config_class.reference_steps
        for key in self.grid:
            if key not in steps:
                accepted = ", ".join(steps) or f"nothing: {self.kind!r} has no exhaustive search"
                raise ValueError(f".grid.{key}: not a parameter of it (accepted: {accepted})")
        # What is written out has every default.
        object.__setattr__(self, "space", space.to_dict())
        object.__setattr__(self, "view", None if view is None else view.to_dict())
        object.__setattr__(self, "grid", {**steps, **self.grid})
        return self

    @cached_property
    def search_space(self) -> SearchSpace:
        """The space as the search reads it."""
        return SearchSpace.parse(self.kind, self.space, self.scope, self.view)

    def limit(self, workload: str) -> float:
        """Return the greatest false-positive rate that is accepted for a workload."""
        given = self.false_positive_limit
        return given[workload] if isinstance(given, dict) else given
