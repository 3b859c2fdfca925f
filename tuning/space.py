"""Conversion of a search space to Optuna's distributions."""

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

    The search varies the distance from the pole because the effect of a threshold near 1 depends on its distance from
    1; see `mifsim.defense.Param`. Distances have a logarithmic scale unless the parameter specifies another one. A
    choice with a single value is left out.

    Parameters
    ----------
    space : SearchSpace
        The search space.

    Returns
    -------
    dict of str to BaseDistribution
        The keys are each parameter's `search_name`, or its name if it has none, and the names of the choices. The
        proposals of Optuna's multivariate TPE depend on the keys.

    Examples
    --------
    >>> list(distributions(SearchSpace.parse("ssim-hash", {"ssim": ["global", "uniform"]})))
    ['d_ssim', 't_hash', 'n_b', 'l_sp', 'ssim']
    """
    found: dict[str, BaseDistribution] = {}
    for name, param in space.params.items():
        low, high = param.distances(*space.bounds[name])
        log = param.scale == "log"
        found[param.search_name or name] = (
            IntDistribution(int(low), int(high), log=log) if param.whole else FloatDistribution(low, high, log=log)
        )
    for name, values in space.searched_choices.items():
        found[name] = CategoricalDistribution(list(values))
    return found
