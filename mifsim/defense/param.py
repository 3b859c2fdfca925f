"""A detector's parameters as a search sees them: bounds, scale, and which direction is stricter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Strictness = Literal[-1, 0, 1]


@dataclass(frozen=True)
class Param:
    """One number of a configuration, and how a search moves it.

    A search moves the parameter's distance from `pole`, log-uniformly unless `scale` says otherwise.

    Attributes
    ----------
    low, high : float
        Bounds of the search, unless a study gives others.
    description : str
        What it means, for pages and tables: a phrase that follows the value.
    whole : bool
        Whether it is a whole number.
    pole : float
        0, or the value near which small differences matter (1 for a similarity).
    strictness : {-1, 0, 1}
        1 where a greater distance from the pole blocks more, -1 where it blocks less, 0 where neither is known.
    least, most : float
        What a configuration accepts at all.
    scale : {"log", "linear"}
        Of the search. A parameter whose distance can be 0 needs ``"linear"``.
    search_name : str
        What the sampler calls it; empty: its own name. Optuna's multivariate TPE depends on these names, so a change
        of one changes the proposals of every study.

    Examples
    --------
    >>> similarity = Param(0.3, 0.99999, pole=1.0, strictness=1, least=-1.0, most=1.0)
    >>> round(similarity.value(0.25), 2), round(similarity.moved(0.9, 2.0), 2)
    (0.75, 0.8)
    """

    low: float
    high: float
    description: str = ""
    whole: bool = False
    pole: float = 0.0
    strictness: Strictness = 0
    least: float = -math.inf
    most: float = math.inf
    scale: Literal["log", "linear"] = "log"
    search_name: str = ""

    def __post_init__(self) -> None:
        if not self.least <= self.low <= self.high <= self.most:
            raise ValueError(f"need least <= low <= high <= most, got {self}")
        if self.strictness not in (-1, 0, 1) or self.scale not in ("log", "linear"):
            raise ValueError(f"strictness must be -1, 0 or 1 and scale log or linear, got {self}")
        if problem := self.problem(self.low, self.high):
            raise ValueError(problem)

    def problem(self, low: float, high: float) -> str:
        """Return what is wrong with bounds of a search; an empty string for nothing."""
        for name, value in (("min", low), ("max", high)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                return f"{name} = {value!r}: must be a number"
            if self.whole and value != int(value):
                return f"{name} = {value!r}: must be a whole number"
            if not self.least <= value <= self.most:
                return f"{name} = {value!r}: must be {self.accepted}"
        if low > high:
            return f"max = {high} is less than min = {low}"
        if self.scale == "log" and not self.pole and low <= 0:
            return f"min = {low!r}: must be above 0, as the search is logarithmic"
        if self.scale == "linear" and self.pole and low < self.pole < high:
            return f"min = {low!r}, max = {high!r}: must lie on one side of {self.pole:g}"
        if self.scale == "log" and self.pole and low <= self.pole <= high:
            return f"min = {low!r}, max = {high!r}: must not reach {self.pole:g}, as the search is logarithmic near it"
        return ""

    @property
    def accepted(self) -> str:
        """What a configuration accepts, in words."""
        if math.isinf(self.least) and math.isinf(self.most):
            return "a number"
        if math.isinf(self.most):
            return f"at least {self.least:g}"
        return f"at most {self.most:g}" if math.isinf(self.least) else f"from {self.least:g} to {self.most:g}"

    def distances(self, low: float, high: float) -> tuple[float, float]:
        """Return bounds of a value as bounds of its distance."""
        if not self.pole:
            return low, high
        ends = (self.pole - low, self.pole - high) if high <= self.pole else (low - self.pole, high - self.pole)
        return min(ends), max(ends)

    def value(self, distance: float, above: bool = False) -> float:
        """Return the value at a distance from the pole; `above` the pole, or below it."""
        if not self.pole:
            return distance
        return self.pole + distance if above else self.pole - distance

    def distance(self, value: float) -> float:
        """Return a value's distance from the pole."""
        return abs(value - self.pole) if self.pole else value

    def moved(self, value: float, step: float) -> float:
        """Return a value whose distance is multiplied so that it blocks more (step above 1) or less (below 1).

        It stays within what a configuration accepts; a whole number is rounded up.
        """
        distance = self.distance(value)
        scaled = step * distance if self.strictness > 0 else distance / step
        moved = min(self.most, max(self.least, self.value(scaled, above=value > self.pole)))
        return math.ceil(moved) if self.whole else moved


@dataclass(frozen=True)
class Choice:
    """A configuration's value that is one of a few.

    Attributes
    ----------
    accepted : sequence
        All values.
    default : object
        The one that is searched unless a study names others.
    description : str
    """

    accepted: Sequence[Any]
    default: Any
    description: str = ""

    @property
    def words(self) -> str:
        """The accepted values, in words."""
        if isinstance(self.accepted, range):
            return f"a whole number from {self.accepted[0]} to {self.accepted[-1]}"
        return ", ".join(map(str, self.accepted))
