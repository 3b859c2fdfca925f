"""The matrix: every attack of a study combined with every row of evasions."""

from __future__ import annotations

import re
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
    """The ``[matrix]`` section: the combinations of evasions for ``mifsim matrix``."""

    evasions: list[list[Evasion]] = Field(
        [[]], description="rows of evasions, each combined with every attack, such as [[], [{decoys = 10}], ...]"
    )

    @field_validator("evasions", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError("must be a list of rows of evasions, such as [[], [{decoys = 10}, {rotate = {}}]]")
        return [read_evasions(row) for row in value]

    def to_toml(self) -> dict[str, Any]:
        """Return the section as a TOML table, with all defaults."""
        return {"evasions": evasion_rows(self.evasions)}


def evasion_rows(rows: Sequence[Sequence[Evasion]]) -> list[list[dict[str, Any]]]:
    """Return rows of evasions as TOML tables, with all defaults."""
    return [
        [{evasion_name(evasion): evasion.model_dump(mode="json", exclude_none=True)} for evasion in row] for row in rows
    ]


def cross(attacks: Sequence[Any], matrix: Matrix) -> list[Any]:
    """Return every attack combined with every row of evasions.

    Parameters
    ----------
    attacks : sequence of Attacks
    matrix : Matrix

    Returns
    -------
    list of Attacks
        Named ``attack+evasion+…``; see `row_names`. The queries that an evasion adds are added to the budget, so that
        the attack itself has the same budget with every row.

    Raises
    ------
    StudyError
        If two of them would have the same name.
    """
    found = []
    for attack in attacks:
        for row, suffix in zip(matrix.evasions, row_names(matrix.evasions), strict=True):
            name = attack.name + suffix
            budget = ceil(attack.budget_queries * prod(evasion.cost for evasion in row)) + sum(
                evasion.entry for evasion in row
            )
            update = {"name": name, "evasions": (*attack.evasions, *row), "budget_queries": budget}
            found.append(attack.model_copy(update=update))
    names = [attack.name for attack in found]
    if duplicates := {name for name in names if names.count(name) > 1}:
        raise StudyError(f"matrix.evasions: two rows give attacks of the same name: {', '.join(sorted(duplicates))}")
    return found


def row_names(rows: Sequence[Sequence[Evasion]]) -> list[str]:
    """Return what each row of evasions adds to the name of an attack, such as ``+decoys+rotate``.

    Rows of the same evasions are told apart by the arguments that differ from their defaults.

    Examples
    --------
    >>> from mifsim.study.populations import read_evasions
    >>> row_names([read_evasions([{"decoys": between}]) for between in (10, 20, 50)])
    ['+decoys', '+decoys 20', '+decoys 50']
    """
    short = ["".join(f"+{evasion_name(evasion)}" for evasion in row) for row in rows]
    return [
        "".join(f"+{_with_arguments(evasion)}" for evasion in row) if short.count(name) > 1 else name
        for row, name in zip(rows, short, strict=True)
    ]


def _with_arguments(evasion: Evasion) -> str:
    given = evasion.model_dump(mode="json", exclude_defaults=True)
    shown = " ".join(str(value) if key == evasion.main else f"{key} {value}" for key, value in given.items())
    # Other characters may not be in a name: those of a list, say.
    return f"{evasion_name(evasion)} {re.sub(r'[^A-Za-z0-9._-]+', ' ', shown)}".strip()


def with_filters(filters: Sequence[Filter], given: Sequence[Filter]) -> list[Filter]:
    """Return the filters of a matrix: `given`, `filters`, and one of kind ``none`` if neither has it.

    Parameters
    ----------
    filters : sequence of Filter
        The study's own.
    given : sequence of Filter
        From ``--filter``.

    Raises
    ------
    StudyError
        If two have the same name.
    """
    combined = [*given, *filters]
    if not any(item.undefended for item in combined):
        combined.append(Filter(name="no filter", config=NoDefenseConfig()))
    names = [item.name for item in combined]
    if duplicates := {name for name in names if names.count(name) > 1}:
        raise StudyError(f"--filter: two filters have the same name: {', '.join(sorted(duplicates))}")
    return combined
