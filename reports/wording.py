"""Number and configuration formats of the page and the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

ABSENT = "–"
"""Displayed in place of a missing number."""


def missing(value: Any) -> bool:
    """Return whether the value of a table cell is missing: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: float, digits: int = 6) -> str:
    """Format a number with `digits` significant digits; with all digits if it would be rounded to 1.

    Examples
    --------
    >>> number(0.00001), number(12.0), number(0.99999999), number(0.8731554)
    ('1e-05', '12', '0.99999999', '0.873155')
    """
    text = f"{value:.{digits}g}"
    return repr(float(value)) if float(text) == 1.0 != value else text


def percent(share: float, *, brief: bool = False) -> str:
    """Format a share in percent: with two decimals below 10%, where limits lie, and with one from 10% on.

    Parameters
    ----------
    share : float
        In [0, 1]; None or NaN if missing.
    brief : bool
        Use at most one decimal, for table cells with several shares.

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


def accuracy(model: Mapping[str, Any]) -> str:
    """Return the accuracy of a model on the users' images, from its facts in ``run.json``; empty if it is unknown.

    Examples
    --------
    >>> accuracy({"test_accuracy": 0.9, "test_accuracy_interval": [0.86, 0.93], "test_images": 300})
    'test accuracy 90.00% (95% interval 86.0% to 93.0%, of 300 images)'
    >>> accuracy({"test_accuracy": 0.9})
    'test accuracy 90.00%'
    """
    if "test_accuracy" not in model:
        return ""
    text = f"test accuracy {model['test_accuracy']:.2%}"
    if "test_accuracy_interval" in model:
        low, high = model["test_accuracy_interval"]
        text += f" (95% interval {low:.1%} to {high:.1%}, of {model['test_images']:,} images)"
    return text


def doubtful_accuracy(victim: Mapping[str, Any]) -> list[str]:
    """Return sentences about a victim whose accuracy is doubtful, or need not be high; empty for others.

    Examples
    --------
    >>> doubtful_accuracy({"test_accuracy": 0.9, "chance": 0.1, "beats_chance": "better"})
    []
    >>> doubtful_accuracy({"test_accuracy": 0.1, "chance": 0.1, "beats_chance": "chance"})
    ["The victim's accuracy is not better than chance (10.00%): test accuracy 10.00%."]
    """
    found = []
    if victim.get("accept_any_accuracy"):
        found.append("The study accepts any accuracy of the victim (victim.accept_any_accuracy = true).")
    if (verdict := victim.get("beats_chance", "better")) != "better":
        compared = "is not better than" if verdict == "chance" else "cannot be told from"
        found.append(f"The victim's accuracy {compared} chance ({victim['chance']:.2%}): {accuracy(victim)}.")
    if victim.get("constant_outputs"):
        found.append("The victim's outputs are the same for all images.")
    if victim.get("advice"):
        found.append(f"Another reading of the victim is clearly better: {'; or '.join(victim['advice'])}.")
    return found


def limit(share: float) -> str:
    """Format a limit in percent, without trailing zeros.

    Examples
    --------
    >>> limit(0.01), limit(0.005)
    ('1%', '0.5%')
    """
    return f"{100 * share:.4g}%"


def queries(value: float, *, at_least: bool = False) -> str:
    """Format a number of queries to block.

    Parameters
    ----------
    value : float
        None or NaN if missing.
    at_least : bool
        Whether it is a lower bound, because sessions that were never blocked count as their query budget.

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
    """Format a number with a noun in singular or plural, such as "1 session" or "2 sessions"."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def listed(names: list[str]) -> str:
    """Join names with commas and "and".

    Examples
    --------
    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def parameters(config: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a configuration, without kind, version and the default scope.

    Those of the members of the kind ``any-of`` are preceded by the member's name: its kind, or ``kind.2`` for the
    second one of a kind.

    Parameters
    ----------
    config : str or mapping
        The cell ``config`` of a table (JSON), or the table ``[filter]`` of a ``filter.toml``.

    Examples
    --------
    >>> parameters('{"of": [{"kind": "quota", "queries": 9}, {"kind": "quota", "queries": 8}], "scope": "client"}')
    {'quota.queries': 9, 'quota.2.queries': 8, 'scope': 'client'}
    """
    found: dict[str, Any] = dict(json.loads(config) if isinstance(config, str) else config)
    for name in ("kind", "version"):
        found.pop(name, None)
    if found.get("scope") == "session":
        del found["scope"]
    members, kinds = {}, []
    for member in found.pop("of", ()):
        kinds.append(member["kind"])
        number = kinds.count(member["kind"])
        name = member["kind"] if number == 1 else f"{member['kind']}.{number}"
        members.update({f"{name}.{key}": given for key, given in parameters(member).items()})
    return {**members, **found}


def value(found: Any) -> str:
    """Format the value of a parameter.

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
    """Format the kind and configuration of a table row in one line.

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


def not_deterministic(victim: Mapping[str, Any]) -> str:
    """Return a sentence for a run whose victim is not deterministic; empty if it is.

    Parameters
    ----------
    victim : mapping
        The facts about the victim in ``run.json``.

    Examples
    --------
    >>> not_deterministic({"deterministic": False, "largest_difference": 0.0123}).partition("(")[2]
    'two answers to the same images differed by up to 0.0123): rows differ between runs.'
    """
    if victim.get("deterministic", True):
        return ""
    difference = number(float(victim.get("largest_difference", 0.0)), 3)
    return (
        f"The victim is not deterministic (two answers to the same images differed by up to {difference}): rows differ "
        "between runs."
    )


def confirmation(found: Mapping[str, Any]) -> str:
    """Return the result of the confirmation of a calibration, from its facts.

    Examples
    --------
    >>> confirmation({"confirmed_sessions": 1234})
    'Confirmed: all 1,234 live sessions matched the replay'
    >>> confirmation({"confirmed_sessions": 90, "differing_sessions": 10})
    '90 of 100 live sessions matched the replay; in the others, the victim gave other answers than in the recording'
    """
    matched, differing = found["confirmed_sessions"], found.get("differing_sessions", 0)
    if not differing:
        return f"Confirmed: all {matched:,} live sessions matched the replay"
    return (
        f"{matched:,} of {matched + differing:,} live sessions matched the replay; in the others, the victim gave "
        "other answers than in the recording"
    )
