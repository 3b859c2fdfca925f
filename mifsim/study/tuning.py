"""The ``[tuning]`` section of a study: search space, sampler, guarantee, and splits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mifsim.defense import FilterConfig, View, config_class
from mifsim.defense.any_of import AnyOfConfig, check_member, within
from mifsim.defense.config import Scope
from mifsim.defense.config_file import DEFAULT_KIND
from mifsim.defense.joint_space import JointSpace
from mifsim.defense.space import SearchSpace
from mifsim.errors import ConfigError
from mifsim.study.bench import BenchDetector
from mifsim.study.sections import MemberSpace, Name, Section

Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]

_FLAT_KEYS = (*(name for name, param in FilterConfig.params.items() if param.off is None), *FilterConfig.choices)
"""Parameters of ``ssim-hash`` that a study of mifsim 0.1.0 has in ``[tuning]`` instead of ``[tuning.space]``."""


class Splits(Section):
    """Shares of the clients of each population for search, calibration (certification) and test; they add up to 1."""

    search: Share = Field(0.4, description="share on which configurations are searched")
    calibration: Share = Field(0.4, description="share on which false-positive rates are certified")
    test: Share = Field(0.2, description="share on which the chosen configuration runs live")

    @model_validator(mode="after")
    def _sum_to_one(self) -> Splits:
        total = self.search + self.calibration + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-9):
            raise ValueError(f"search, calibration and test add up to {total:g}; they must add up to 1")
        return self


class Tuning(Section):
    """The ``[tuning]`` section: how a detector is calibrated."""

    kind: str = Field(DEFAULT_KIND, description="kind of the detector")
    scope: Scope = Field(
        "session", description="whether a detector's state belongs to one session, or to a client and all its sessions"
    )
    view: dict[str, Any] | None = Field(
        None, description='reduction of images before detection, such as {size = 64, colour = "grey"}; absent: none'
    )
    fit: str = Field("", description="digest of the arrays fitted to the private images; a run fills it in")
    space: dict[str, Any] = Field(
        default_factory=dict,
        description="bounds of the detector's parameters, such as t_ssim = {min = 0.5, max = 0.999}, and lists "
        "of choices",
    )
    of: list[MemberSpace] = Field(
        default_factory=list, description="members of the kind any-of, each with a kind and a space of its own"
    )
    sampler: Literal["tpe", "nsga2"] = Field("tpe", description="sampler that proposes configurations")
    trials: int = Field(300, ge=1, description="number of configurations to evaluate")
    concurrent: int = Field(4, ge=1, le=1000, description="number of concurrent trials; the proposals depend on it")
    attack: Literal["worst", "mean", "geometric"] = Field(
        "worst",
        description="objective over several attacks: the worst, the mean or the geometric mean of their queries to "
        "block",
    )
    leakage: bool = Field(False, description="use leakage at block as a third objective")
    false_positive_budget: float = Field(
        0.10, gt=0, le=1, description="constraint of the search: largest false-positive rate of a configuration"
    )
    false_positive_limit: Rate | dict[Name, Rate] = Field(
        0.01,
        description="false-positive rate to guarantee: one limit for all workloads, or a table of limits by workload",
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="confidence level of the guarantee")
    procedure: Literal["fixed_sequence", "holm"] = Field(
        "fixed_sequence", description="multiple-testing procedure of the certification"
    )
    splits: Splits = Field(
        Splits(), description="shares of the clients of each population for search, calibration and test"
    )
    separate_images: bool = Field(
        True,
        description="whether the users of each split draw from images of their own, so that the guarantee is for "
        "images that the search never saw; otherwise all draw from the same images",
    )
    leave_out: bool = Field(
        False,
        description="after the calibration, calibrate again with each workload left out in turn, and report how many "
        "of its sessions are blocked",
    )
    leave_out_trials: int | None = Field(
        None, ge=1, description="number of trials of each search with a workload left out; absent: trials"
    )
    confirm_leakage: bool = Field(
        True,
        description="whether the live confirmation also scores what its attackers have reconstructed when they end",
    )
    reference: bool = Field(
        True, description="whether to measure the search with an exhaustive one, for kinds that have one; see grid"
    )
    compare: list[BenchDetector] = Field(
        default_factory=list,
        description="other detectors, calibrated to the same guarantee with the same sessions and shown beside",
    )
    grid: dict[str, Annotated[int, Field(ge=2, le=1000)]] = Field(
        default_factory=dict,
        description="number of values of each parameter in the exhaustive search that gives the reference front, such "
        "as t_ssim = 32; only for kinds with such a search",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_0_1_0(cls, value: Any) -> Any:
        """Convert a section written by mifsim 0.1.0, which had a single kind and other key names."""
        if not isinstance(value, Mapping):
            return value
        table = dict(value)
        flat = {key: table.pop(key) for key in _FLAT_KEYS if key in table}
        if flat and table.get("kind", DEFAULT_KIND) != DEFAULT_KIND:
            try:
                config_class(table["kind"])
            except ConfigError as error:
                raise ValueError(f".{error}") from None
            raise ValueError(f".{next(iter(flat))}: not a key of [tuning] (put parameters into [tuning.space])")
        if flat and isinstance(space := table.get("space", {}), Mapping):
            if duplicates := sorted(set(flat) & set(space)):
                raise ValueError(f".{duplicates[0]}: is also in [tuning.space] (expected once)")
            table["space"] = {**flat, **space}
        if isinstance(parts := table.get("parts"), Mapping) and "splits" not in table:
            del table["parts"]
            table["splits"] = {"calibration" if key == "certify" else key: share for key, share in parts.items()}
        return table

    @field_validator("false_positive_limit", mode="wrap")
    @classmethod
    def _single_message(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Replace pydantic's separate errors for each branch of the union by one message."""
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError(
                "limit",
                "must be between 0 and 1, or a table of such numbers by workload; got {value}",
                {"value": repr(value)},
            ) from None

    @model_validator(mode="after")
    def _space_of_kind(self) -> Tuning:
        try:
            view = View.parse(self.view)
            space = self._parsed_space()
        except ConfigError as error:
            raise ValueError(f".{error}") from None
        steps = space.reference_steps
        for key in self.grid:
            if key not in steps:
                accepted = ", ".join(steps) or f"none: {self.kind!r} has no exhaustive search"
                raise ValueError(f".grid.{key}: not a parameter of the exhaustive search (accepted: {accepted})")
        # Stored with all defaults, so that `Study.save` writes them.
        object.__setattr__(self, "space", space.to_dict())
        if isinstance(space, JointSpace):
            object.__setattr__(self, "of", [_member_table(member) for member in space.members])
        object.__setattr__(self, "view", None if view is None else view.to_dict())
        object.__setattr__(self, "grid", {**steps, **self.grid})
        return self

    @cached_property
    def search_space(self) -> SearchSpace:
        """The parsed search space."""
        return self._parsed_space()

    def _parsed_space(self) -> SearchSpace:
        if self.kind != AnyOfConfig.kind:
            if self.of:
                raise ConfigError(f"of: only the kind {AnyOfConfig.kind!r} has members (kind = {self.kind!r})")
            return SearchSpace.parse(self.kind, self.space, self.scope, self.view, self.fit)
        for key in ("space", "fit"):
            if given := getattr(self, key):
                raise ConfigError(f"{key} = {given!r}: belongs to a member (accepted: {key} in [[tuning.of]] tables)")
        members = []
        for place, member in enumerate(self.of):
            check_member(f"of.{place}", member.kind)
            try:
                members.append(SearchSpace.parse(member.kind, member.space, view=member.view, fit=member.fit))
            except ConfigError as error:
                raise ConfigError(within(f"of.{place}", error)) from None
        return JointSpace.joining(members, self.scope, View.parse(self.view))

    def to_toml(self) -> dict[str, Any]:
        """Return the section as a TOML table, with all defaults, but without what only some kinds or studies have."""
        plain = self.model_dump(mode="json", exclude_none=True)
        plain["of"] = [member.to_toml() for member in self.of]
        plain["compare"] = [detector.to_toml() for detector in self.compare]
        return {key: value for key, value in plain.items() if value or key not in ("fit", "of", "compare")}

    def limit(self, workload: str) -> float:
        """Return the limit on the false-positive rate of a workload, in (0, 1)."""
        given = self.false_positive_limit
        return given[workload] if isinstance(given, dict) else given


def _member_table(space: SearchSpace) -> MemberSpace:
    """Return the table of a member's space with all defaults."""
    view = None if space.view is None else space.view.to_dict()
    return MemberSpace(kind=space.kind, view=view, space=space.to_dict(), fit=space.fit)
