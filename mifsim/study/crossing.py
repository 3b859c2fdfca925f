"""Attacks crossed with evasions: the study that a matrix runs."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

from pydantic import Field, field_validator

from mifsim.clients.evasion import Evasion
from mifsim.defense import NoDefenseConfig
from mifsim.errors import StudyError
from mifsim.study.populations import evasion_name, read_evasions
from mifsim.study.sections import Filter, Section


class Matrix(Section):
    """What ``mifsim matrix`` crosses the attacks with."""

    evasions: list[list[Evasion]] = Field(
        [[]], description="rows of evasions, each tried around every attack: [[], [{decoys = 10}], ...]"
    )

    @field_validator("evasions", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError("must be a list of rows of evasions, such as [[], [{decoys = 10}, {rotate = {}}]]")
        return [read_evasions(row) for row in value]

    def to_toml(self) -> dict[str, Any]:
        """Return the table as a study writes it."""
        rows = [
            [{evasion_name(one): one.model_dump(mode="json", exclude_none=True)} for one in row]
            for row in self.evasions
        ]
        return {"evasions": rows}


def cross(attacks: Sequence[Any], matrix: Matrix) -> list[Any]:
    """Return every attack with every row of evasions around it.

    Parameters
    ----------
    attacks : sequence of Attacks
    matrix : Matrix

    Returns
    -------
    list of Attacks
        Named ``attack+evasion+…``. An evasion that spends queries of its own gets them on top of the attack's budget:
        the attack inside has as many as without it.

    Raises
    ------
    StudyError
        Where two of them would have the same name.
    """
    found = []
    for attack in attacks:
        for row in matrix.evasions:
            name = "+".join([attack.name, *(evasion_name(one) for one in row)])
            budget = ceil(attack.budget_queries * prod(one.cost for one in row)) + sum(one.entry for one in row)
            update = {"name": name, "evasions": (*attack.evasions, *row), "budget_queries": budget}
            found.append(attack.model_copy(update=update))
    names = [attack.name for attack in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise StudyError(f"matrix.evasions: two rows make the same attack, {', '.join(sorted(twice))}")
    return found


def with_filters(filters: Sequence[Filter], given: Sequence[Filter]) -> list[Filter]:
    """Return the filters of a matrix: those given, those of the study, and the kind ``none`` to compare them with.

    Raises
    ------
    StudyError
        Where two have the same name.
    """
    every = [*given, *filters]
    if not any(item.undefended for item in every):
        every.append(Filter(name="no filter", config=NoDefenseConfig()))
    names = [item.name for item in every]
    if twice := {name for name in names if names.count(name) > 1}:
        raise StudyError(f"--filter: the study has a filter of that name already: {', '.join(sorted(twice))}")
    return every
