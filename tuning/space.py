"""A search space in the terms of Optuna, which proposes the points."""

from __future__ import annotations

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from mifsim.defense.space import SearchSpace


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return the distribution of each parameter's distance from its pole, and of each choice.

    What matters of a threshold near 1 is its distance from 1; see `mifsim.defense.Param`. Scales are logarithmic
    unless the parameter says otherwise (from 1 to 2 is as far as from 16 to 32). A choice of which there is only one
    value is no dimension. The names are the parameters' `search_name`: Optuna's multivariate TPE depends on them.

    Examples
    --------
    >>> list(distributions(SearchSpace.parse("ssim-hash", {"ssim": ["global", "uniform"]})))
    ['d_ssim', 't_hash', 'n_b', 'l_sp', 'ssim']
    """
    found: dict[str, BaseDistribution] = {}
    for name, param in space.config_class.params.items():
        low, high = param.distances(*space.bounds[name])
        log = param.scale == "log"
        found[param.search_name or name] = (
            IntDistribution(int(low), int(high), log=log) if param.whole else FloatDistribution(low, high, log=log)
        )
    for name, values in space.searched_choices.items():
        found[name] = CategoricalDistribution(list(values))
    return found
