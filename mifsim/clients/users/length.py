"""How many: a fixed number, or one drawn anew each time."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    RootModel,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError


class Uniform(BaseModel):
    """Each whole number from `min` to `max`, both included, equally likely."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: int = Field(ge=1, strict=True)
    max: int = Field(ge=1, strict=True)

    @model_validator(mode="after")
    def _in_order(self) -> Uniform:
        if self.max < self.min:
            raise ValueError("max is less than min")
        return self


class Geometric(BaseModel):
    """1, 2, 3, … with the same chance of stopping after each; the mean is `mean`, and a few are very long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float = Field(ge=1, allow_inf_nan=False)


class Length(RootModel[Annotated[int, Field(ge=1, strict=True)] | Uniform | Geometric]):
    """A positive whole number, fixed or drawn.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> Length(50).draw(rng)
    50
    >>> drawn = Length.model_validate({"min": 2, "max": 6})
    >>> [drawn.draw(rng) for _ in range(5)]
    [6, 5, 4, 3, 3]
    """

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _told_once(cls, value: Any, handler: ModelWrapValidatorHandler[Length]) -> Length:
        """Say what is accepted in one line: pydantic would report each branch of the union by itself."""
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError(
                "length",
                "must be a whole number of at least 1, {min = 2, max = 6} with 1 <= min <= max "
                "(each equally likely), or {mean = 50} of at least 1 (geometric); got {value}",
                {"value": repr(value)},
            ) from None

    @property
    def mean(self) -> float:
        """What `draw` returns on the average."""
        match self.root:
            case Uniform(min=low, max=high):
                return (low + high) / 2
            case Geometric(mean=mean):
                return mean
            case fixed:
                return float(fixed)

    def draw(self, rng: np.random.Generator) -> int:
        """Return the number, from `rng` where it is drawn."""
        match self.root:
            case Uniform(min=low, max=high):
                return int(rng.integers(low, high, endpoint=True))
            case Geometric(mean=mean):
                return int(rng.geometric(1 / mean))
            case fixed:
                return fixed
