"""Validation of the fields of a detector configuration."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from mifsim.defense.param import Param
from mifsim.errors import ConfigError


def whole_number(name: str, value: Any, least: int, most: float = math.inf) -> int:
    """Return a whole number as a Python integer.

    Parameters
    ----------
    name : str
        Name of the field, for the error message.
    value : object
        Untyped if it comes from a file; may be a numpy integer.
    least, most : int
        Smallest and largest accepted value; `most` may be infinite.

    Raises
    ------
    ConfigError
        If the value is not accepted. The message names field, value and what is accepted.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        accepted = f"of at least {least}" if math.isinf(most) else f"from {least} to {most}"
        raise ConfigError(f"{name} = {value!r}: must be a whole number {accepted}")
    return int(value)


def parameter(name: str, value: Any, param: Param) -> float:
    """Return the value of a parameter as a plain Python number, if it is within `Param.least` and `Param.most`.

    Raises
    ------
    ConfigError
        If the value is not accepted. The message names field, value and what is accepted.
    """
    if param.whole:
        return whole_number(name, value, int(param.least), param.most)
    number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if not param.least <= number <= param.most or math.isinf(number):
        raise ConfigError(f"{name} = {value!r}: must be a number, {param.accepted}")
    return number
