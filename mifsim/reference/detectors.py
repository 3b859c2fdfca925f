"""The parameters of each kind of detector."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from mifsim.defense.param import Choice, Param
from mifsim.reference.accepted import number, shown
from mifsim.reference.tables import Key, KeyTable, summary_of
from mifsim.registry import registry


def detector_tables() -> Iterator[KeyTable]:
    """Yield the table of each kind of detector, those of plug-ins included.

    Examples
    --------
    >>> [quota] = [table for table in detector_tables() if table.name == "quota"]
    >>> [key.name for key in quota.keys]
    ['queries', 'scope', 'view']
    """
    known = registry("detectors")
    for name in known:
        kind = known.load(name)
        parameters: list[Key] = []
        shared: list[Key] = []
        for item in dataclasses.fields(kind):
            described = kind.params.get(item.name) or kind.choices.get(item.name)
            (parameters if described or "description" not in item.metadata else shared).append(
                _key(item, described, kind)
            )
        # Parameters that only the search has, in the place of some of the configuration's.
        of_search = [
            Key(key, _range(param), "not in filter.toml", param.description, _searched(param))
            for key, param in kind.search_params.items()
            if key not in kind.params
        ]
        keys = (*parameters, *of_search, *shared)
        yield KeyTable("detectors", name, f'kind = "{name}"', summary_of(kind), keys)


def _key(item: dataclasses.Field[Any], described: Param | Choice | None, kind: Any) -> Key:
    default = "required" if item.default is dataclasses.MISSING else shown(item.default)
    if isinstance(described, Param):
        is_searched = not kind.search_params or item.name in kind.search_params
        return Key(
            item.name, _range(described), default, described.description, _searched(described) if is_searched else ""
        )
    if isinstance(described, Choice):
        values = described.accepted
        accepted = (
            f"whole number from {number(values[0])} to {number(values[-1])}"
            if isinstance(values, range)
            else " or ".join(shown(value) for value in values)
        )
        return Key(item.name, accepted, default, described.description, shown(described.default))
    accepted = item.metadata.get("accepted", "see its documentation")
    return Key(item.name, accepted, default, item.metadata.get("description", "see its documentation"))


def _range(param: Param) -> str:
    words = "whole number" if param.whole else "number"
    low, high = math.isfinite(param.least), math.isfinite(param.most)
    if low and high:
        return f"{words} from {number(param.least)} to {number(param.most)}"
    if low or high:
        return f"{words} {'≥' if low else '≤'} {number(param.least if low else param.most)}"
    return words


def _searched(param: Param) -> str:
    bounds = f"{param.low:g} to {param.high:g}"
    return bounds if param.off is None and not param.requires else f"if named, {bounds}"
