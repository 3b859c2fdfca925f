"""Amounts: a real number, fixed or drawn uniformly each time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    RootModel,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Ends(BaseModel):
    """A range from `min` to `max`, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Finite = Field(description="smallest number")
    max: Finite = Field(description="greatest number; at least min")

    @model_validator(mode="after")
    def _in_order(self) -> Ends:
        if self.max < self.min:
            raise ValueError("max is less than min")
        return self


class Span(RootModel[Finite | Ends]):
    """A number, fixed or drawn uniformly between `min` and `max`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> Span(0.5).draw(rng)
    0.5
    >>> drawn = Span.model_validate({"min": 50, "max": 95})
    >>> [drawn.draw_whole(rng) for _ in range(4)]
    [89, 79, 73, 62]
    """

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _single_message(cls, value: Any, handler: ModelWrapValidatorHandler[Span]) -> Span:
        """Replace pydantic's separate errors for each branch of the union by one message."""
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError(
                "span",
                "must be a number, or {min = 0.2, max = 0.6} with min <= max (drawn uniformly); got {value}",
                {"value": repr(value)},
            ) from None

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest value of `draw`."""
        return (self.root.min, self.root.max) if isinstance(self.root, Ends) else (self.root, self.root)

    def draw(self, rng: np.random.Generator) -> float:
        """Return the fixed number, or one drawn from `rng`."""
        low, high = self.ends
        return low if low == high else float(rng.uniform(low, high))

    def draw_whole(self, rng: np.random.Generator) -> int:
        """Return a whole number: the fixed one, rounded, or one drawn uniformly from the range, both ends included."""
        low, high = self.ends
        return round(low) if low == high else int(rng.integers(round(low), round(high), endpoint=True))


@dataclass(frozen=True)
class Within:
    """The range of a span, for annotations of fields: both ends must lie in [`low`, `high`].

    Examples
    --------
    >>> from pydantic import TypeAdapter
    >>> TypeAdapter(Annotated[Span, Within(1, 100)]).validate_python({"min": 50, "max": 95}).ends
    (50.0, 95.0)
    """

    low: float
    high: float

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema that checks a span after it is read; called by pydantic."""
        return no_info_after_validator_function(self._check, handler(source))

    def _check(self, span: Span) -> Span:
        if not self.low <= span.ends[0] <= span.ends[1] <= self.high:
            raise ValueError(f"must lie in {self.low:g} to {self.high:g}, got {span.ends[0]:g} to {span.ends[1]:g}")
        return span


Quality = Annotated[Span, Within(1, 100)]
"""Quality of a JPEG file, on libjpeg's scale of 1 to 100."""

Share = Annotated[Span, Within(0.01, 1)]
"""A share of a length, 0.01 to 1."""
