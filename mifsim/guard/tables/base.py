"""The base of the tables of ``guard.toml``, and kinds of values that several of them have."""

from __future__ import annotations

from typing import Final

from pydantic import AfterValidator, BaseModel, ConfigDict

from mifsim.guard.durations import parse_duration

CERTIFIED: Final = "certified"
"""Value of a setting that is that of the certified filter."""


class Table(BaseModel):
    """A table of ``guard.toml``; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def duration(forever: str) -> AfterValidator:
    """Return the check of a duration such as ``"8h"``, or the word `forever`; see `parse_duration`."""

    def check(value: str) -> str:
        parse_duration(value, forever)
        return value

    return AfterValidator(check)
