"""Search-space definitions of detector parameters: bounds, scale, and the stricter direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Strictness = Literal[-1, 0, 1]

MORE = (1, 2, 3, 5, 8)
"""Steps by which `Param.relaxed` changes integers."""


@dataclass(frozen=True)
class Param:
    """A numerical parameter of a configuration.

    The search samples the distance of the parameter from `pole`, by default log-uniformly.

    Attributes
    ----------
    low, high : float
        Default bounds of the search.
    description : str
        Meaning of the parameter, as a phrase that is shown after the value.
    whole : bool
        Whether the parameter is an integer.
    pole : float
        0, or the value near which small differences matter, such as 1 for a similarity.
    strictness : {-1, 0, 1}
        1 if a larger distance from the pole blocks more, -1 if it blocks less, 0 if neither is known.
    least, most : float
        Smallest and largest value that a configuration accepts.
    scale : {"log", "linear"}
        Scale of the search. A parameter whose distance can be 0 needs ``"linear"``.
    search_name : str
        Name for the sampler; empty for the name of the field. The proposals of Optuna's multivariate TPE depend on
        these names, so a new name changes the results of every study.
    off : float or None
        Value that switches an optional parameter off; None for a parameter that is always in use. An optional parameter
        belongs to a search only if the study names it. It is off by default, and left out of files while it is off.
    requires : str
        Name of an optional choice, for a parameter that belongs to a search only together with this choice.

    Raises
    ------
    ValueError
        If the attributes contradict each other.

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
    off: float | None = None
    requires: str = ""

    def __post_init__(self) -> None:
        if not self.least <= self.low <= self.high <= self.most:
            raise ValueError(f"need least <= low <= high <= most, got {self}")
        if self.strictness not in (-1, 0, 1) or self.scale not in ("log", "linear"):
            raise ValueError(f"strictness must be -1, 0 or 1 and scale log or linear, got {self}")
        if problem := self.problem(self.low, self.high):
            raise ValueError(problem)

    def problem(self, low: float, high: float) -> str:
        """Return an error message for invalid bounds of a search; an empty string if they are valid."""
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
            return f"min = {low!r}: must be above 0, because the search is logarithmic"
        if self.scale == "linear" and self.pole and low < self.pole < high:
            return f"min = {low!r}, max = {high!r}: must lie on one side of {self.pole:g}"
        if self.scale == "log" and self.pole and low <= self.pole <= high:
            return (
                f"min = {low!r}, max = {high!r}: must not reach {self.pole:g}, because the search is logarithmic "
                "in the distance from it"
            )
        return ""

    @property
    def accepted(self) -> str:
        """Range that a configuration accepts, as text."""
        if math.isinf(self.least) and math.isinf(self.most):
            return "a number"
        if math.isinf(self.most):
            return f"at least {self.least:g}"
        return f"at most {self.most:g}" if math.isinf(self.least) else f"from {self.least:g} to {self.most:g}"

    def distances(self, low: float, high: float) -> tuple[float, float]:
        """Convert bounds of the value to bounds of the distance from the pole."""
        if not self.pole:
            return low, high
        ends = (self.pole - low, self.pole - high) if high <= self.pole else (low - self.pole, high - self.pole)
        return min(ends), max(ends)

    def value(self, distance: float, above: bool = False) -> float:
        """Return the value at a distance below the pole, or above it if `above`."""
        if not self.pole:
            return distance
        return self.pole + distance if above else self.pole - distance

    def distance(self, value: float) -> float:
        """Return the distance of a value from the pole."""
        return abs(value - self.pole) if self.pole else value

    def is_off(self, value: float) -> bool:
        """Return whether the parameter is optional, and off at this value."""
        return self.off is not None and value == self.off

    def moved(self, value: float, step: float) -> float:
        """Scale the distance from the pole so that the value blocks more (`step` above 1) or less (`step` below 1).

        The result is clipped to `least` and `most`; an integer parameter is rounded up. A parameter that is off stays
        off.
        """
        if self.is_off(value):
            return value
        distance = self.distance(value)
        scaled = step * distance if self.strictness > 0 else distance / step
        moved = min(self.most, max(self.least, self.value(scaled, above=value > self.pole)))
        return math.ceil(moved) if self.whole else moved

    def relaxed(self, value: float, steps: Sequence[float]) -> list[float]:
        """Return accepted values that block less.

        Parameters
        ----------
        value : float
            A value of a parameter with a known `strictness`.
        steps : sequence of float
            Factors above 1 by which the distance from the pole changes. An integer changes by the steps `MORE` instead.

        Returns
        -------
        list of float
            Empty for a parameter that is off.
        """
        if self.is_off(value):
            return []
        if not self.whole:
            return [self.moved(value, 1 / step) for step in steps]
        changed = [value - self.strictness * more for more in MORE]
        return [more for more in changed if self.least <= more <= self.most]


@dataclass(frozen=True)
class Choice:
    """A categorical parameter of a configuration.

    Attributes
    ----------
    accepted : sequence
        All accepted values.
    default : object
        The value used by a search whose study names no values.
    description : str
        Meaning of the parameter.
    optional : bool
        Whether the choice belongs to a search only if the study names it; otherwise all configurations have the
        default.
    """

    accepted: Sequence[Any]
    default: Any
    description: str = ""
    optional: bool = False

    def accepts(self, value: object) -> bool:
        """Return whether a value is accepted; True and False are not numbers here."""
        return isinstance(value, bool) == isinstance(self.default, bool) and value in self.accepted

    @property
    def words(self) -> str:
        """Accepted values, as text."""
        if isinstance(self.accepted, range):
            return f"a whole number from {self.accepted[0]} to {self.accepted[-1]}"
        return ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in self.accepted)
