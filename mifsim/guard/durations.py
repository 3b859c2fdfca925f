"""Durations in files, such as ``"8h"``."""

from __future__ import annotations

import math
import re

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
ACCEPTED = 'a whole number and a unit, such as "45s", "30m", "8h" or "1d"'


def parse_duration(text: str, forever: str) -> float:
    """Return a duration in seconds; infinity for the word `forever`.

    Raises
    ------
    ValueError
        If the text is not accepted; the message says what is.

    Examples
    --------
    >>> parse_duration("8h", "forever"), parse_duration("forever", "forever")
    (28800.0, inf)
    """
    if text == forever:
        return math.inf
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if not match or int(match[1]) == 0:
        raise ValueError(f'must be {ACCEPTED}, or "{forever}"')
    return float(int(match[1]) * _SECONDS[match[2]])
