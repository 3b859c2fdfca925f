"""The ``[bench]`` section of a study: detectors that are calibrated alike and compared."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from mifsim.clients.evasion import Evasion
from mifsim.defense.config import SCOPES, Scope
from mifsim.defense.config_file import DEFAULT_KIND
from mifsim.study.crossing import evasion_rows
from mifsim.study.populations import Users, read_evasions
from mifsim.study.sections import MemberSpace, Name, Section


class BenchDetector(Section):
    """A ``[[bench.detectors]]`` or ``[[tuning.compare]]`` table: a kind of detector to calibrate."""

    name: Name = Field(description="name of the calibrated detector in the tables")
    kind: str = Field(DEFAULT_KIND, description="kind of the detector")
    view: dict[str, Any] | None = Field(None, description="as in [tuning]")
    space: dict[str, Any] = Field(default_factory=dict, description="as in [tuning]")
    of: list[MemberSpace] = Field(default_factory=list, description="as in [tuning]")
    trials: int | None = Field(None, ge=1, description="as in [tuning]; absent: that of [tuning]")
    leave_out: bool | None = Field(
        None, description="as in [tuning], for this detector; absent: that of [tuning]; not accepted in tuning.compare"
    )
    leave_out_trials: int | None = Field(None, ge=1, description="as in [tuning]; absent: that of [tuning]")

    def to_toml(self) -> dict[str, Any]:
        """Return the table; only the kind any-of has members."""
        plain = self.model_dump(mode="json", exclude_none=True)
        plain["of"] = [member.to_toml() for member in self.of]
        return {key: value for key, value in plain.items() if key != "of" or value}


class Bench(Section):
    """The ``[bench]`` section: what ``mifsim bench`` compares."""

    detectors: list[BenchDetector] = Field(
        default_factory=list, description="detectors to calibrate; the study's filters are compared as they are"
    )
    trials: int = Field(1, ge=1, description="attackers per class with each row of evasions")
    scopes: list[Scope] = Field(
        list(SCOPES), min_length=1, description="scopes in which each detector meets closed-loop attackers"
    )
    knowing: list[list[Evasion]] = Field(
        default_factory=list,
        description="rows of evasions of attackers who know the detector, such as [[{morph = 0.3}], [{accounts = 3}]]; "
        "they are counted separately from those of [matrix]",
    )

    unseen: list[Users] = Field(
        default_factory=list,
        description="users that no detector is calibrated for, such as users with a noisier camera; the tables state "
        "how many of their sessions are blocked",
    )

    @field_validator("knowing", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError("must be a list of rows of evasions, such as [[{sharpen = 1.0}], [{decoys = 50}]]")
        return [read_evasions(row) for row in value]

    def to_toml(self) -> dict[str, Any]:
        """Return the section as a TOML table, with all defaults."""
        plain = self.model_dump(mode="json", exclude_none=True, exclude={"knowing", "unseen"})
        plain["detectors"] = [detector.to_toml() for detector in self.detectors]
        if self.unseen:
            plain["unseen"] = [users.to_toml() for users in self.unseen]
        return {**plain, "knowing": evasion_rows(self.knowing)}
