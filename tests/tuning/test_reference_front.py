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
from mifsim.study import Tuning
from tests.tuning.sample_traces import random_traces, recording, trace_set
from tuning.objectives import evaluate
from tuning.reference_front import between, grid_front, reference_front

T_SSIM, T_HASH = [0.25, 0.5, float(np.float32(0.8))], [0.05, 0.1, 0.3]


def space_of(n_b: tuple[int, int], l_sp: tuple[int, int]) -> SearchSpace:
    bounds = {name: {"min": low, "max": high} for name, (low, high) in (("n_b", n_b), ("l_sp", l_sp))}
    return SearchSpace.parse("ssim-hash", {**bounds, "count_rule": list(COUNT_RULES)})


def grids_of(t_ssim: list[float], t_hash: list[float], rules=COUNT_RULES):
    """Return one grid for each count rule, all with the same thresholds."""
    values = {"t_ssim": np.array(t_ssim), "t_hash": np.array(t_hash)}
    return [({"ssim": "global", "count_rule": rule, "hash_size": 8}, values) for rule in rules]


def two_sided(seed: int):
    """Return random traces that contain an attack session and an honest session."""
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
def test_grid_front_matches_a_plain_search_through_every_configuration(seed, attack, leakage, n_b, l_sp):
    traces = two_sided(seed)
    found = grid_front(
        traces, grids_of(T_SSIM, T_HASH), space_of(n_b, l_sp), attack=attack, leakage=leakage, fpr_limit=0.5
    )
    # In the documented order of preference among equal configurations.
    configs = [
        FilterConfig(t_ssim, t_hash, n, m, count_rule=rule)
        for rule in COUNT_RULES
        for t_ssim in reversed(T_SSIM)
        for t_hash in T_HASH
        for n in range(n_b[0], n_b[1] + 1)
        for m in range(l_sp[1], l_sp[0] - 1, -1)
    ]
    assert found.tried == len(configs)
    best: dict[tuple[float, ...], FilterConfig] = {}
    for config in configs:
        done = evaluate(traces, config, attack)
        point = (done.false_positive_rate, done.queries, *([done.leak] if leakage else []))
        if done.false_positive_rate <= 0.5:
            best.setdefault(point, config)
    expected = {p: c for p, c in best.items() if not any(q != p and all(map(float.__le__, q, p)) for q in best)}
    assert dict(zip(map(tuple, found.points.tolist()), found.configs, strict=True)) == expected
    assert found.points.tolist() == sorted(found.points.tolist())
    budget = traces.budget[traces.is_attack].max()
    assert found.hypervolume == pytest.approx(hypervolume(found.points, budget=budget, fpr_limit=0.5))


def test_threads_change_no_result_and_progress_is_reported():
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
    """The honest session equals the attack session, so a configuration blocks both or neither."""
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
def test_invalid_ranges_are_refused(ranges, message):
    with pytest.raises(ConfigError, match=message):
        space_of(**ranges)


def values_of(traces, steps=(5, 5), **bounds):
    """Return the thresholds to try, as two arrays."""
    found = threshold_values(recording(traces), "global", bounds, dict(zip(("t_ssim", "t_hash"), steps, strict=True)))
    return found["t_ssim"], found["t_hash"]


def test_threshold_values_span_the_bounds_and_follow_the_data():
    traces = two_sided(2)
    t_ssim, t_hash = values_of(traces, (21, 9), t_ssim=(0.15, 0.99), t_hash=(0.01, 0.42))
    for values, low, high, steps in ((t_ssim, 0.15, 0.99, 21), (t_hash, 0.01, 0.42, 9)):
        assert len(values) <= steps
        assert (np.diff(values) > 0).all()
        assert values[[0, -1]] == pytest.approx([low, high])
    # The data are multiples of 0.1 and 0.05, so the quantiles reach the extreme values between the bounds.
    assert any(value == pytest.approx(0.2, abs=1e-7) for value in t_ssim)
    assert any(value == pytest.approx(0.4, abs=1e-12) for value in t_hash)
    # Without data between the bounds, successive values of 1 - t_ssim have equal ratios.
    without_data, _ = values_of(traces, (8, 8), t_ssim=(0.91, 0.99), t_hash=(0.01, 0.4))
    assert np.diff(np.log(1 - without_data)) == pytest.approx(math.log(1 / 9) / 3)


@pytest.mark.parametrize(
    "bounds", [{"t_ssim": (0.5, 1.0)}, {"t_ssim": (0.9, 0.5)}, {"t_hash": (0.0, 0.5)}, {"steps": (1, 5)}]
)
def test_threshold_values_refuses_invalid_bounds(bounds):
    arguments = {"t_ssim": (0.5, 0.9), "t_hash": (0.1, 0.5), "steps": (5, 5), **bounds}
    with pytest.raises(ValueError, match="0 < low <= high"):
        values_of(two_sided(1), **arguments)


def test_the_finer_grid_divides_the_cells_around_the_best_values() -> None:
    grid = np.array([1.0, 4.0, 16.0, 64.0, 256.0])
    assert between(grid, [4.0], 2).tolist() == pytest.approx([1, 2, 4, 8, 16])
    assert between(grid, [1.0], 1).tolist() == pytest.approx([1, 2, 4])
    assert between(grid, [256.0, 64.0], 2).tolist() == pytest.approx([16, 32, 64, 128, 256])


def test_no_configuration_on_the_coarse_grid_beats_the_reference_front() -> None:
    traces = random_traces(np.random.default_rng(5), sessions=60)
    space = {"n_b": {"max": 3}, "l_sp": {"max": 4}}
    tuning = Tuning(space=space, grid={"t_ssim": 4, "t_hash": 4}, false_positive_budget=0.8)
    done: list[tuple[int, int]] = []
    found = reference_front(traces, tuning, lambda *counts: done.append(counts))
    bounds = {"t_ssim": (0.3, 0.99999), "t_hash": (1e-5, 0.3)}
    coarse = threshold_values(recording(traces), "global", bounds, {"t_ssim": 4, "t_hash": 4})
    for config, point in zip(found.configs, found.points, strict=True):
        one = evaluate(traces, config)
        assert (one.false_positive_rate, one.queries) == tuple(point)
    for t_ssim, t_hash, n_b, l_sp in itertools.product(coarse["t_ssim"], coarse["t_hash"], range(1, 4), range(1, 5)):
        one = evaluate(traces, FilterConfig(t_ssim, t_hash, n_b, l_sp))
        if one.false_positive_rate <= 0.8:
            assert (found.points <= [one.false_positive_rate, one.queries]).all(axis=1).any()
    assert done[-1][0] == done[-1][1] == found.tried // (3 * 4)
    assert found.tried > 16 * 3 * 4
