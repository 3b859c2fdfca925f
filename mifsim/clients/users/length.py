"""Counts: a positive whole number, fixed or drawn each time."""

from __future__ import annotations

import math
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

RARELY = 0.001
"""Probability that a stated upper limit of a random count is exceeded."""
_RARE_DEVIATIONS = 3.09  # standard deviations that a normal distribution exceeds with this probability


def upper(mean: float, variance: float, most: int) -> int:
    """Return a limit that an approximately normal count with the maximum `most` exceeds with probability `RARELY`."""
    return min(most, math.ceil(mean + _RARE_DEVIATIONS * math.sqrt(variance)))


class Uniform(BaseModel):
    """The uniform distribution on the whole numbers from `min` to `max`, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: int = Field(ge=1, strict=True, description="smallest number")
    max: int = Field(ge=1, strict=True, description="greatest number; at least min")

    @model_validator(mode="after")
    def _in_order(self) -> Uniform:
        if self.max < self.min:
            raise ValueError("max is less than min")
        return self


class Geometric(BaseModel):
    """The geometric distribution on 1, 2, 3, … with the mean `mean`; a few draws are very large."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float = Field(ge=1, allow_inf_nan=False, description="mean of the numbers")


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
    def _single_message(cls, value: Any, handler: ModelWrapValidatorHandler[Length]) -> Length:
        """Replace pydantic's separate errors for each branch of the union by one message."""
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
        """Expected value of `draw`."""
        match self.root:
            case Uniform(min=low, max=high):
                return (low + high) / 2
            case Geometric(mean=mean):
                return mean
            case fixed:
                return float(fixed)

    @property
    def variance(self) -> float:
        """Variance of `draw`."""
        match self.root:
            case Uniform(min=low, max=high):
                return ((high - low + 1) ** 2 - 1) / 12
            case Geometric(mean=mean):
                return mean * (mean - 1)
            case _:
                return 0.0

    @property
    def least(self) -> int:
        """Smallest value of `draw`."""
        match self.root:
            case Uniform(min=low):
                return low
            case Geometric():
                return 1
            case fixed:
                return fixed

    @property
    def most(self) -> int:
        """Greatest value of `draw`; of a geometric distribution, the one that a draw in a thousand exceeds."""
        match self.root:
            case Uniform(max=high):
                return high
            case Geometric(mean=mean):
                return 1 if mean == 1 else math.ceil(math.log(RARELY) / math.log1p(-1 / mean))
            case fixed:
                return fixed

    def draws_for(self, total: int) -> int:
        """Return the number of draws whose sum reaches `total`; at most one time in a thousand, more are needed.

        By the central limit theorem for renewals, the number has the mean total / mean and the variance
        total · variance / mean³.
        """
        return upper(total / self.mean, total * self.variance / self.mean**3, math.ceil(total / self.least))

    def draw(self, rng: np.random.Generator) -> int:
        """Return the fixed number, or one drawn from `rng`."""
        match self.root:
            case Uniform(min=low, max=high):
                return int(rng.integers(low, high, endpoint=True))
            case Geometric(mean=mean):
                return int(rng.geometric(1 / mean))
            case fixed:
                return fixed
