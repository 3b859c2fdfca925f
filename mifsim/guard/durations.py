"""Durations in ``guard.toml``, such as ``"8h"``, or a word that stands for no end."""

from __future__ import annotations

import math

from mifsim.durations import duration

ACCEPTED = 'a duration of at least a second, such as "45s", "30min", "8h" or "1 day"'


def parse_duration(text: str, forever: str) -> float:
    """Return a duration in seconds; infinity for the word `forever`.

    Raises
    ------
    ValueError
        If the text is not accepted; the message says what is.

    Examples
    --------
    >>> parse_duration("8h", "forever"), parse_duration("30min", "none"), parse_duration("forever", "forever")
    (28800.0, 1800.0, inf)
    """
    if text == forever:
        return math.inf
    try:
        seconds = duration(text)
    except ValueError:
        seconds = 0.0
    if seconds < 1:
        raise ValueError(f'must be {ACCEPTED}, or "{forever}"')
    return seconds
