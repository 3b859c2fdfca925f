"""Durations as texts, in studies, in ``guard.toml`` and on the command line."""

from __future__ import annotations

import re

ACCEPTED_DURATIONS = "a number of seconds, or text such as '30min', '1h 30min', '90s' or '2 days'"

_UNITS = {
    "ms": 0.001, "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60,
    "h": 3600, "hr": 3600, "hour": 3600, "d": 86_400, "day": 86_400, "w": 604_800, "week": 604_800,
}  # fmt: skip
_PIECE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*,?")


def duration(given: str | int | float) -> float:
    """Return a duration in seconds.

    Raises
    ------
    ValueError
        If it is not valid; the message says what is accepted.

    Examples
    --------
    >>> duration("30min"), duration("1h 30min"), duration("2 days"), duration(45)
    (1800.0, 5400.0, 172800.0, 45.0)
    """
    seconds = _seconds(given)
    if seconds is None or not 0 < seconds < float("inf"):
        raise ValueError(f"{given!r} is not a duration (accepted: {ACCEPTED_DURATIONS})")
    return seconds


def _seconds(given: str | int | float) -> float | None:
    if not isinstance(given, str):
        return None if isinstance(given, bool) else float(given)
    text, total, at = given.lower(), 0.0, 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            return None
        unit = piece[2] if piece[2] in _UNITS else piece[2].removesuffix("s")
        if unit not in _UNITS:
            return None
        total, at = total + float(piece[1]) * _UNITS[unit], piece.end()
    return total


def duration_text(seconds: float) -> str:
    """Return a duration in words, rounded to its largest unit.

    Examples
    --------
    >>> duration_text(604_680), duration_text(5400), duration_text(90), duration_text(3600)
    ('7 days', '1.5 hours', '1.5 minutes', '1 hour')
    """
    units = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))
    word, size = next((unit for unit in units if seconds >= unit[1]), units[-1])
    number = f"{seconds / size:.1f}".removesuffix(".0")
    return f"{number} {word}{'' if number == '1' else 's'}"
