"""What is searched: the four parameters on scales that fit them, and the filter's form where there is a choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from mifsim.defense import FilterConfig
from mifsim.study import Tuning


def distributions(tuning: Tuning) -> dict[str, BaseDistribution]:
    """Return the search space in Optuna's terms.

    ``d_ssim`` stands for ``1 - t_ssim``: what matters of a threshold near 1 is its distance from 1. Both distances
    are log-uniform, both whole numbers too (from 1 to 2 is as far as from 16 to 32). A form or count rule of which
    only one is allowed is no dimension.
    """
    space: dict[str, BaseDistribution] = {
        "d_ssim": FloatDistribution(1 - tuning.t_ssim.max, 1 - tuning.t_ssim.min, log=True),
        "t_hash": FloatDistribution(tuning.t_hash.min, tuning.t_hash.max, log=True),
        "n_b": IntDistribution(tuning.n_b.min, tuning.n_b.max, log=True),
        "l_sp": IntDistribution(tuning.l_sp.min, tuning.l_sp.max, log=True),
    }
    if len(tuning.ssim) > 1:
        space["ssim"] = CategoricalDistribution(tuning.ssim)
    if len(tuning.count_rule) > 1:
        space["count_rule"] = CategoricalDistribution(tuning.count_rule)
    return space


def config(params: Mapping[str, Any], tuning: Tuning) -> FilterConfig:
    """Return the setting at a point of the space."""
    return FilterConfig(
        t_ssim=1 - params["d_ssim"],
        t_hash=params["t_hash"],
        n_b=params["n_b"],
        l_sp=params["l_sp"],
        ssim=params.get("ssim", tuning.ssim[0]),
        hash_size=tuning.hash_size,
        count_rule=params.get("count_rule", tuning.count_rule[0]),
    )


def inside(config: FilterConfig, tuning: Tuning) -> bool:
    """Return whether a setting lies within the study's bounds, to rounding."""
    return (
        tuning.t_ssim.min - 1e-12 <= config.t_ssim <= tuning.t_ssim.max + 1e-12
        and tuning.t_hash.min <= config.t_hash <= tuning.t_hash.max
        and tuning.n_b.min <= config.n_b <= tuning.n_b.max
        and tuning.l_sp.min <= config.l_sp <= tuning.l_sp.max
    )
