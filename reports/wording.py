"""Numbers as the page and the terminal write them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

ABSENT = "–"
"""Where there is no number."""


def missing(value: Any) -> bool:
    """Return whether a table's cell holds nothing: None, or NaN (as pandas reads null)."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: float, digits: int = 6) -> str:
    """Return a number in `digits` significant ones; in full where that would make 1 of 0.9999999.

    Examples
    --------
    >>> number(0.00001), number(12.0), number(0.99999999), number(0.8731554)
    ('1e-05', '12', '0.99999999', '0.873155')
    """
    text = f"{value:.{digits}g}"
    return repr(float(value)) if float(text) == 1.0 != value else text


def percent(share: float, *, brief: bool = False) -> str:
    """Return a share in percent, one decimal more below 10%, where rates are limited and compared.

    Parameters
    ----------
    share : float
        In [0, 1]; None or NaN where there is none.
    brief : bool
        One decimal at most, and none where it would be 0: for a table whose cells hold several shares.

    Examples
    --------
    >>> percent(0.0), percent(0.00667), percent(0.3333), percent(1.0)
    ('0%', '0.67%', '33.3%', '100%')
    >>> percent(0.2, brief=True), percent(0.0125, brief=True), percent(0.996, brief=True)
    ('20%', '1.2%', '99.6%')
    """
    if missing(share):
        return ABSENT
    if brief:
        return f"{100 * share:.1f}".removesuffix(".0") + "%"
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{share:.2%}" if share < 0.1 else f"{share:.1%}"


def limit(share: float) -> str:
    """Return a limit as it was set, without decimals that nobody asked for.

    Examples
    --------
    >>> limit(0.01), limit(0.005)
    ('1%', '0.5%')
    """
    return f"{100 * share:.4g}%"


def queries(value: float, *, at_least: bool = False) -> str:
    """Return queries to block; `at_least` where some session was never blocked and counts as its budget.

    Examples
    --------
    >>> queries(12.34), queries(1000.0, at_least=True), queries(float("nan"))
    ('12.3', '> 1,000', '–')
    """
    if missing(value):
        return ABSENT
    text = f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.1f}"
    return f"> {text}" if at_least else text


def count(value: int, one: str, many: str | None = None) -> str:
    """Return how many, with the word in its number: 1 session, 2 sessions."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def listed(names: list[str]) -> str:
    """Return names as a sentence lists them.

    Examples
    --------
    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def parameters(config: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's parameters: what the cell ``config`` holds, without what has its default.

    Parameters
    ----------
    config : str or mapping
        The cell of a table (JSON), or the table ``[filter]`` of a ``filter.toml``.
    """
    found: dict[str, Any] = dict(json.loads(config) if isinstance(config, str) else config)
    for name in ("kind", "version"):
        found.pop(name, None)
    if found.get("scope") == "session":
        del found["scope"]
    return found


def value(found: Any) -> str:
    """Return a parameter's value as the page writes it.

    Examples
    --------
    >>> value(0.8667142773967207), value(13), value({"size": [64, 64], "colour": "grey"})
    ('0.866714', '13', 'size 64×64, colour grey')
    """
    if isinstance(found, Mapping):
        return ", ".join(f"{key} {value(item)}" for key, item in found.items())
    if isinstance(found, (list, tuple)):
        return "×".join(value(item) for item in found)
    return number(found) if isinstance(found, float) else str(found)


def describe(row: Mapping[str, Any] | pd.Series) -> str:
    """Return a row's kind and configuration in one line.

    Examples
    --------
    >>> describe({"kind": "none", "config": "{}"})
    'no defence'
    >>> describe({"kind": "example-quota", "config": '{"queries": 80, "scope": "client"}'})
    'example-quota: queries 80, scope client'
    """
    if row["kind"] == "none":
        return "no defence"
    return f"{row['kind']}: " + ", ".join(f"{key} {value(found)}" for key, found in parameters(row["config"]).items())
