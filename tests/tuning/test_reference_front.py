"""The reference front against a plain search through every configuration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense import FilterConfig
from mifsim.defense.space import SearchSpace
from mifsim.defense.ssim_hash.config import COUNT_RULES
from mifsim.defense.ssim_hash.reference_values import threshold_values
from mifsim.errors import ConfigError
from mifsim.pareto import hypervolume
from tests.tuning.worlds import random_traces, recording, trace_set
from tuning.objectives import evaluate
from tuning.reference_front import grid_front

T_SSIM, T_HASH = [0.25, 0.5, float(np.float32(0.8))], [0.05, 0.1, 0.3]


def space_of(n_b: tuple[int, int], l_sp: tuple[int, int]) -> SearchSpace:
    bounds = {name: {"min": low, "max": high} for name, (low, high) in (("n_b", n_b), ("l_sp", l_sp))}
    return SearchSpace.parse("ssim-hash", {**bounds, "count_rule": list(COUNT_RULES)})


def grids_of(t_ssim: list[float], t_hash: list[float], rules=COUNT_RULES):
    """The same thresholds for each rule."""
    values = {"t_ssim": np.array(t_ssim), "t_hash": np.array(t_hash)}
    return [({"ssim": "global", "count_rule": rule, "hash_size": 8}, values) for rule in rules]


def two_sided(seed: int):
    """Random traces that hold an attack and an honest session."""
    return next(
        traces
        for extra in itertools.count()
        if (traces := random_traces(np.random.default_rng([seed, extra]), n_b_max=4)).attack_groups
        and traces.honest_groups
    )


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["worst", "mean"]),
    st.booleans(),
    st.tuples(st.integers(1, 4), st.integers(1, 4)).map(sorted),
    st.tuples(st.integers(1, 5), st.integers(1, 5)).map(sorted),
)
@settings(max_examples=25, deadline=None)
def test_the_front_of_a_grid_is_a_plain_search_through_every_configuration(seed, attack, leakage, n_b, l_sp):
    traces = two_sided(seed)
    found = grid_front(
        traces, grids_of(T_SSIM, T_HASH), space_of(n_b, l_sp), attack=attack, leakage=leakage, fpr_limit=0.5
    )
    # In the order of preference among equals that the docstring promises.
    every = [
        FilterConfig(t_ssim, t_hash, n, m, count_rule=rule)
        for rule in COUNT_RULES
        for t_ssim in reversed(T_SSIM)
        for t_hash in T_HASH
        for n in range(n_b[0], n_b[1] + 1)
        for m in range(l_sp[1], l_sp[0] - 1, -1)
    ]
    assert found.tried == len(every)
    best: dict[tuple[float, ...], FilterConfig] = {}
    for config in every:
        done = evaluate(traces, config, attack)
        point = (done.false_positive_rate, done.queries, *([done.leak] if leakage else []))
        if done.false_positive_rate <= 0.5:
            best.setdefault(point, config)
    expected = {p: c for p, c in best.items() if not any(q != p and all(map(float.__le__, q, p)) for q in best)}
    assert dict(zip(map(tuple, found.points.tolist()), found.configs, strict=True)) == expected
    assert found.points.tolist() == sorted(found.points.tolist())
    budget = traces.budget[traces.is_attack].max()
    assert found.hypervolume == pytest.approx(hypervolume(found.points, budget=budget, fpr_limit=0.5))


def test_threads_change_nothing_and_progress_is_told():
    traces = two_sided(1)
    seen = []
    both = [
        grid_front(
            traces,
            grids_of(T_SSIM, T_HASH),
            space_of((1, 4), (1, 5)),
            fpr_limit=1.0,
            threads=threads,
            on_progress=lambda done, total: seen.append((done, total)),
        )
        for threads in (1, 3)
    ]
    assert both[0].configs == both[1].configs
    assert both[0].points.tolist() == both[1].points.tolist()
    assert seen == [(done, 18) for done in (3, 6, 9, 12, 15, 18)] * 2


def test_no_configuration_under_the_limit_leaves_an_empty_front():
    """An honest session and an attack that are blocked by whatever blocks at all."""
    table = np.array([[np.nan], [0.9]])
    traces = trace_set([table, table], [np.full(2, 0.5)] * 2, group=np.array([0, 1]))
    found = grid_front(traces, grids_of([0.5], [0.1], ["per_match"]), space_of((1, 1), (1, 1)))
    assert found.configs == ()
    assert found.points.shape == (0, 2)
    assert found.hypervolume == 0


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"n_b": (0, 3), "l_sp": (1, 2)}, "n_b.min = 0: must be from 1 to 1024"),
        ({"n_b": (1, 3), "l_sp": (3, 2)}, "l_sp.max = 2 is less than min = 3"),
    ],
)
def test_empty_ranges_are_refused(ranges, message):
    with pytest.raises(ConfigError, match=message):
        space_of(**ranges)


def values_of(traces, steps=(5, 5), **bounds):
    """Thresholds to try, as arrays."""
    found = threshold_values(recording(traces), "global", bounds, dict(zip(("t_ssim", "t_hash"), steps, strict=True)))
    return found["t_ssim"], found["t_hash"]


def test_threshold_values_span_the_bounds_and_follow_the_data():
    traces = two_sided(2)
    t_ssim, t_hash = values_of(traces, (21, 9), t_ssim=(0.15, 0.99), t_hash=(0.01, 0.42))
    for values, low, high, steps in ((t_ssim, 0.15, 0.99, 21), (t_hash, 0.01, 0.42, 9)):
        assert len(values) <= steps
        assert (np.diff(values) > 0).all()
        assert values[[0, -1]] == pytest.approx([low, high])
    # Data are tenths and twentieths: the quantiles reach the extremes between the bounds.
    assert any(value == pytest.approx(0.2, abs=1e-7) for value in t_ssim)
    assert any(value == pytest.approx(0.4, abs=1e-12) for value in t_hash)
    # 1 - t_ssim and t_hash: without data between the bounds, equal ratios.
    alone, _ = values_of(traces, (8, 8), t_ssim=(0.91, 0.99), t_hash=(0.01, 0.4))
    assert np.diff(np.log(1 - alone)) == pytest.approx(math.log(1 / 9) / 3)


@pytest.mark.parametrize(
    "bounds", [{"t_ssim": (0.5, 1.0)}, {"t_ssim": (0.9, 0.5)}, {"t_hash": (0.0, 0.5)}, {"steps": (1, 5)}]
)
def test_threshold_values_refuse(bounds):
    given = {"t_ssim": (0.5, 0.9), "t_hash": (0.1, 0.5), "steps": (5, 5), **bounds}
    with pytest.raises(ValueError, match="0 < low <= high"):
        values_of(two_sided(1), **given)
