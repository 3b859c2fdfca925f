"""The section of a study that says how its filter is calibrated: what is searched, by whom, what is promised."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mifsim.defense import CountRule, Form
from mifsim.study.sections import Name, Section

Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Range = TypeVar("Range", "SimilarityRange", "HashRange", "BufferRange", "CountRange")


def _ordered(range_: Range) -> Range:
    if range_.max < range_.min:
        raise ValueError(f"max = {range_.max} is less than min = {range_.min}")
    return range_


class SimilarityRange(Section):
    """Bounds of `t_ssim`, searched log-uniformly in ``1 - t_ssim``: above -1, below 1."""

    min: float = Field(0.3, gt=-1, lt=1)
    max: float = Field(0.99999, gt=-1, lt=1)

    @model_validator(mode="after")
    def _in_order(self) -> SimilarityRange:
        return _ordered(self)


class HashRange(Section):
    """Bounds of `t_hash`, searched log-uniformly: above 0, up to 1."""

    min: float = Field(1e-5, gt=0, le=1)
    max: float = Field(0.3, gt=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> HashRange:
        return _ordered(self)


class BufferRange(Section):
    """Bounds of `n_b`, searched log-uniformly in whole numbers."""

    min: int = Field(1, ge=1)
    max: int = Field(32, ge=1, le=1024)

    @model_validator(mode="after")
    def _in_order(self) -> BufferRange:
        return _ordered(self)


class CountRange(Section):
    """Bounds of `l_sp`, searched log-uniformly in whole numbers."""

    min: int = Field(1, ge=1)
    max: int = Field(64, ge=1, le=65536)

    @model_validator(mode="after")
    def _in_order(self) -> CountRange:
        return _ordered(self)


class Splits(Section):
    """Shares of the clients of each population that the search, the certification and the final figures see."""

    search: Share = 0.4
    calibration: Share = 0.4
    test: Share = 0.2

    @model_validator(mode="after")
    def _sum_to_one(self) -> Splits:
        total = self.search + self.calibration + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-9):
            raise ValueError(f"search, certify and test add up to {total:g}; they must add up to 1")
        return self


class Grid(Section):
    """How fine the exhaustive search is that the trials are measured by: thresholds tried of each kind, at most."""

    t_ssim: int = Field(32, ge=2, le=1000)
    t_hash: int = Field(32, ge=2, le=1000)


class Tuning(Section):
    """How a filter is calibrated."""

    sampler: Literal["tpe", "nsga2"] = Field("tpe", description="who proposes settings")
    trials: int = Field(300, ge=1, description="settings tried")
    concurrent: int = Field(4, ge=1, le=1000, description="trials under way at once; proposals depend on it")
    t_ssim: SimilarityRange = SimilarityRange()
    t_hash: HashRange = HashRange()
    n_b: BufferRange = BufferRange()
    l_sp: CountRange = CountRange()
    ssim: list[Form] = Field(["global"], min_length=1, description="forms of the SSIM to choose from")
    count_rule: list[CountRule] = Field(["per_match"], min_length=1, description="count rules to choose from")
    hash_size: int = Field(8, ge=1, le=256, description="edge of the image that the hash averages")
    attack: Literal["worst", "mean"] = Field("worst", description="which attack a setting is judged by")
    leakage: bool = Field(False, description="whether leakage at block is a third objective")
    false_positive_budget: float = Field(
        0.10, gt=0, le=1, description="the search's constraint: settings above it are of no interest"
    )
    false_positive_limit: Rate | dict[Name, Rate] = Field(
        0.01, description="what the guarantee promises, for every workload or for each by name"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="of the guarantee")
    procedure: Literal["fixed_sequence", "holm"] = Field("fixed_sequence", description="how settings are tested")
    splits: Splits = Splits()
    grid: Grid = Grid()

    @field_validator("false_positive_limit", mode="wrap")
    @classmethod
    def _told_once(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Say what is accepted in one line: pydantic would report each branch of the union by itself."""
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError(
                "limit",
                "must lie between 0 and 1, or be a table of such a number for each workload; got {value}",
                {"value": repr(value)},
            ) from None

    @model_validator(mode="after")
    def _choices_once(self) -> Tuning:
        for key in ("ssim", "count_rule"):
            given = getattr(self, key)
            if len(set(given)) < len(given):
                raise ValueError(f"{key} = {given}: each may be given once")
        return self

    def limit(self, workload: str) -> float:
        """Return the greatest false-positive rate that is accepted for a workload."""
        given = self.false_positive_limit
        return given[workload] if isinstance(given, dict) else given
