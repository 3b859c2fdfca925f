"""The replay of `ssim-hash` with its additions, a leak and a separate count of exact repeats."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from mifsim.defense import FilterConfig
from mifsim.defense.ssim_hash.replay import follow, recorded_sessions, verdicts
from tests.tuning.replay_samples import (
    IMAGES,
    assert_replay_matches_the_filter,
    coarse_t_hash,
    coarse_t_ssim,
    rules,
    seeds,
)
from tests.tuning.sample_traces import hashes_of, lags_of, random_traces, record, recording, similarity_of
from tuning.replay import replay, replay_swept


@given(seeds, coarse_t_ssim, coarse_t_hash, rules)
@settings(max_examples=30, deadline=None)
def test_sessions_without_repeats_replay_alike_with_and_without_the_count_of_repeats(seed, t_ssim, t_hash, rule):
    """Both kernels that replay all buffer sizes and limits return the same sums."""
    plain = random_traces(np.random.default_rng(seed))
    none = np.zeros(len(plain.valid), np.int64)
    spec, without_repeats = recorded_sessions(
        plain.offsets, {"global": similarity_of(plain)}, hashes_of(plain), 8, none
    )
    traces = replace(plain, recordings={spec: without_repeats})
    thresholds, most = FilterConfig(t_ssim, t_hash, 1, 1, count_rule=rule), {"n_b": 7, "l_sp": 9}
    one = replay_swept(plain, thresholds, most)
    other = replay_swept(traces, replace(thresholds, repeats=1), most)
    for name in ("sessions", "blocked", "queries", "leak"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()


def test_replay_with_a_leak_matches_a_case_computed_by_hand():
    """One image four times, a different one, and the first again, with an invalid one between; quarters are exact."""
    image, different = IMAGES[4], IMAGES[0]
    stream = [image, image, "no image", image, image, different, image]
    traces = record([stream], 2)
    config = FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=2, l_sp=5, leak=0.25)
    unsafe, count = verdicts(recording(traces), 0, config)
    assert count.tolist() == [0, 0.75, 0.75, 2.5, 4.25, 4.0, 4.75]
    assert not unsafe.any()
    assert replay(traces, config).nearness.tolist() == [1.0]
    lower = replace(config, l_sp=4)
    assert verdicts(recording(traces), 0, lower)[1].tolist() == [0, 0.75, 0.75, 2.5, 4, 4, 4]
    assert replay(traces, lower).blocked_at.tolist() == [5]
    high = replace(config, l_sp=10)
    assert replay(traces, high).nearness.tolist() == [0.575]
    without_last = record([stream[:6]], 2)
    assert follow(recording(without_last), high)[1].tolist() == [4.0]
    assert replay(without_last, high).nearness.tolist() == [0.525]  # the highest count, not the last one
    assert_replay_matches_the_filter(traces, stream, config)


def test_replay_with_repeats_matches_a_case_computed_by_hand():
    """Exact copies do not match each other, but each of them matches the near copies."""
    image, near = IMAGES[4], IMAGES[7]
    stream = [image, image, near, image, near]
    traces = record([stream], 4, repeats=True)
    assert lags_of(traces).tolist() == [0, 1, 0, 2, 2]
    config = FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=4, l_sp=99, repeats=9)
    assert verdicts(recording(traces), 0, config)[1].tolist() == [0, 0, 2, 3, 6]
    for repeats, blocked_at, count in ((1, 2, 0), (2, 4, 2), (3, 5, 3), (4, 0, 6)):
        found = follow(recording(traces), replace(config, repeats=repeats))
        assert [array.tolist() for array in found] == [[blocked_at], [count]]
    assert replay(traces, replace(config, n_b=1, repeats=2)).blocked_at.tolist() == [0]
    assert replay(traces, replace(config, n_b=1, repeats=1)).blocked_at.tolist() == [2]
    assert replay(traces, config).nearness.tolist() == [4 / 9]  # three repeats of nine, nearer than 6 matches of 99
    assert_replay_matches_the_filter(traces, stream, config)


def test_a_count_of_repeats_that_are_not_recorded_is_refused():
    traces = random_traces(np.random.default_rng(0), n_b_max=3)
    config = FilterConfig(0.5, 0.5, 3, 1, repeats=2)
    for replay_with in (follow, lambda sessions, config: verdicts(sessions, 0, config)):
        with pytest.raises(ValueError, match="repeats: not in the recording, which does not contain exact repeats"):
            replay_with(recording(traces), config)
    with pytest.raises(ValueError, match=r"no recording fits .*requires .*'repeats': True"):
        replay(traces, config)
