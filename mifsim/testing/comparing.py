"""Comparison of transcripts and states that names the first difference only.

pytest explains a failed ``==`` by a diff of both sides, and where the environment variable ``CI`` is set, by all of it.
For the images of a session that takes minutes to hours.
"""

from __future__ import annotations

import reprlib
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def assert_same(found: Any, expected: Any, what: str) -> None:
    """Check that two values are equal; name the first place where they differ.

    Parameters
    ----------
    found, expected : object
        Lists, tuples and dicts are compared item by item, at any depth; all else with ``==``.
    what : str
        Name of the value, such as ``"query"``: a difference is reported as ``query[3]``, counted from 0.

    Raises
    ------
    AssertionError
        If they differ.

    Examples
    --------
    >>> assert_same(["SAFE", "SAFE"], ["SAFE", "UNSAFE"], "verdict")
    Traceback (most recent call last):
    AssertionError: verdict[1] is 'SAFE'; expected 'UNSAFE'
    """
    difference = first_difference(found, expected, what)
    if difference is not None:
        raise AssertionError(difference)  # without pytest's explanation of an `assert`


def first_difference(found: Any, expected: Any, what: str) -> str | None:
    """Return a sentence on the first place where two values differ; None if they are equal."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            place = f"{what}[{key!r}]"
            if key not in found:
                return f"{place} is missing"
            if key not in expected:
                return f"{place} is {_SHORT.repr(found[key])}; expected no such key"
            difference = first_difference(found[key], expected[key], place)
            if difference is not None:
                return difference
        return None
    if isinstance(found, (list, tuple)) and type(found) is type(expected):
        for index, (one, other) in enumerate(zip(found, expected, strict=False)):
            difference = first_difference(one, other, f"{what}[{index}]")
            if difference is not None:
                return difference
        if len(found) != len(expected):
            return f"{what} has {len(found)} items; expected {len(expected)}"
        return None
    return None if found == expected else f"{what} is {_SHORT.repr(found)}; expected {_SHORT.repr(expected)}"
