"""The replay against the filter itself, query by query, and the two replay kernels against each other."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense import FilterConfig
from mifsim.defense.similarity import FORMS
from mifsim.defense.ssim_hash.config import COUNT_RULES
from mifsim.defense.ssim_hash.replay import follow, verdicts
from tests.tuning.replay_samples import (
    IMAGES,
    N_B_MAX,
    additions,
    assert_replay_matches_the_filter,
    coarse_t_hash,
    coarse_t_ssim,
    rules,
    seeds,
    streams,
)
from tests.tuning.sample_traces import (
    ATTACK,
    hashes_of,
    lags_of,
    random_traces,
    record,
    recording,
    similarity_of,
    trace_set,
)
from tuning.replay import replay, replay_swept, totals
from tuning.tracedata import TraceSet


@given(streams, additions, st.data())
@settings(max_examples=400, deadline=None)
def test_replay_matches_the_filter_query_by_query(stream, added, data):
    """A threshold is an observed value, a neighbouring floating-point number, or any other value."""
    form = data.draw(st.sampled_from(FORMS))
    traces = record([stream], N_B_MAX, [form], repeats="repeats" in added or data.draw(st.booleans()))
    seen = similarity_of(traces, form)
    similarities = [float(s) for s in np.unique(seen[~np.isnan(seen)])]
    hashes = hashes_of(traces)[traces.valid]
    gaps = np.unique(np.abs(hashes[:, None] - hashes[None, :]))
    neighbours = [float(np.nextafter(s, np.float64(side))) for s in similarities for side in (-2, 2)]
    gap_values = [float(g) for gap in gaps for g in (gap, np.nextafter(gap, 2), np.nextafter(gap, -1))]
    t_ssim = st.sampled_from([s for s in (*similarities, *neighbours) if -1 <= s <= 1] or [0.5])
    t_hash = st.sampled_from([g for g in gap_values if 0 < g <= 1] or [0.5])
    config = FilterConfig(
        t_ssim=data.draw(t_ssim | st.floats(-1, 1)),
        t_hash=data.draw(t_hash | st.floats(1e-6, 1)),
        n_b=data.draw(st.integers(1, N_B_MAX)),
        l_sp=data.draw(st.integers(1, 12)),
        ssim=form,
        count_rule=data.draw(st.sampled_from(COUNT_RULES)),
        **added,
    )
    assert_replay_matches_the_filter(traces, stream, config)


@pytest.mark.parametrize("rule", COUNT_RULES)
def test_a_threshold_met_exactly_is_no_match(rule):
    """Both comparisons are strict: thresholds equal to the observed values give no match; their neighbours give one."""
    stream = [IMAGES[4], IMAGES[8]]
    traces = record([stream], 1)
    similarity = float(similarity_of(traces)[1, 0])
    gap = abs(hashes_of(traces)[1] - hashes_of(traces)[0])
    below, above = float(np.nextafter(similarity, -1)), float(np.nextafter(gap, 1))
    for t_ssim, t_hash, blocked_at in ((similarity, above, 0), (below, gap, 0), (below, above, 2)):
        config = FilterConfig(t_ssim, t_hash, n_b=1, l_sp=1, count_rule=rule)
        assert replay(traces, config).blocked_at.tolist() == [blocked_at]
        assert_replay_matches_the_filter(traces, stream, config)


def test_replay_matches_a_case_computed_by_hand():
    """One image four times, with an invalid one in between: 1, 2 and 2 matches in Algorithm 2 with a buffer of 2."""
    image = IMAGES[4]
    traces = record([[image, image, "no image", image, image]], 2)
    per_match = FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=2, l_sp=4)
    unsafe, count = verdicts(recording(traces), 0, per_match)
    assert count.tolist() == [0, 1, 1, 3, 4]
    assert unsafe.tolist() == [False, False, False, False, True]
    assert replay(traces, per_match).blocked_at.tolist() == [5]
    per_query = FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=2, l_sp=4, count_rule="per_query")
    assert verdicts(recording(traces), 0, per_query)[1].tolist() == [0, 1, 1, 2, 3]
    assert replay(traces, per_query).blocked_at.tolist() == [0]
    assert follow(recording(traces), per_query)[1].tolist() == [3]


def algorithm_2(traces: TraceSet, session: int, config: FilterConfig) -> tuple[int, float]:
    """Run Algorithm 2 on a recorded session in plain Python; return the blocked query (0: none) and the count."""
    similarity, hashes = similarity_of(traces, config.ssim), hashes_of(traces)
    buffer: list[tuple[float, object]] = []
    count, repeats = 0.0, 0
    for number, q in enumerate(range(*traces.offsets[session : session + 2]), start=1):
        hash_ = float(hashes[q])
        if np.isnan(hash_):
            continue
        image: object = object()  # equal to no other one
        if config.repeats:
            lag = int(lags_of(traces)[q])
            image = buffer[lag - 1][1] if lag else image
            if any(other is image for _, other in buffer[: config.n_b]):
                repeats += 1
                if repeats == config.repeats:
                    return number, count
        matches = 0
        for k, (old, other) in enumerate(buffer[: config.n_b]):
            similar = float(similarity[q, k]) > config.t_ssim and abs(hash_ - old) < config.t_hash
            if similar and other is not image:
                matches = 1 if config.count_rule == "per_query" else matches + 1
                if count + matches - config.leak >= config.l_sp:
                    return number, config.l_sp
        count = max(0.0, count + matches - config.leak)
        buffer.insert(0, (hash_, image))
    return 0, count


@given(seeds, coarse_t_ssim, coarse_t_hash, st.integers(1, 7), st.integers(1, 20), rules, additions)
@settings(max_examples=200, deadline=None)
def test_replay_of_many_sessions_matches_algorithm_2(seed, t_ssim, t_hash, n_b, l_sp, rule, added):
    traces = random_traces(np.random.default_rng(seed), repeats="repeats" in added)
    config = FilterConfig(t_ssim, t_hash, n_b, l_sp, count_rule=rule, **added)
    found, count = follow(recording(traces), config)
    expected = [algorithm_2(traces, s, config) for s in range(traces.sessions)]
    assert list(zip(found.tolist(), count.tolist(), strict=True)) == expected
    assert replay(traces, config).blocked_at.tolist() == found.tolist()
    for s, (blocked_at, final) in enumerate(expected):
        unsafe, count = verdicts(recording(traces), s, config)
        assert unsafe.tolist() == [0 < blocked_at <= q for q in range(1, len(unsafe) + 1)]
        assert not len(count) or count[-1] == final


@given(seeds, coarse_t_ssim, coarse_t_hash, st.integers(1, 7), st.integers(1, 20), rules, additions)
@settings(max_examples=100, deadline=None)
def test_swept_replay_matches_the_replay_of_every_buffer_and_limit(
    seed, t_ssim, t_hash, n_b_max, l_sp_max, rule, added
):
    """Each session is a group of its own, so the sums are the outcomes."""
    random_sessions = random_traces(np.random.default_rng(seed), sessions=12, repeats="repeats" in added)
    session_of = np.arange(random_sessions.sessions)
    traces = replace(random_sessions, group=session_of, groups=tuple(map(str, session_of)))
    thresholds = FilterConfig(t_ssim, t_hash, 1, 1, count_rule=rule, **added)
    swept = replay_swept(traces, thresholds, {"n_b": n_b_max, "l_sp": l_sp_max})
    assert swept.blocked.shape == (random_sessions.sessions, n_b_max, l_sp_max)
    for n_b in range(1, n_b_max + 1):
        for l_sp in range(1, l_sp_max + 1):
            config = replace(thresholds, n_b=n_b, l_sp=l_sp)
            blocked_at = replay(traces, config).blocked_at
            place = (slice(None), n_b - 1, l_sp - 1)
            assert swept.blocked[place].tolist() == (blocked_at > 0).tolist()
            assert swept.queries[place].tolist() == np.where(blocked_at, blocked_at, traces.budget).tolist()
            assert swept.leak[place].tolist() == totals(traces, blocked_at).leak.tolist()


@given(seeds, coarse_t_ssim, coarse_t_hash, st.integers(1, 7), st.integers(1, 10))
@settings(max_examples=50, deadline=None)
def test_totals_are_the_sums_over_each_group(seed, t_ssim, t_hash, n_b, l_sp):
    traces = random_traces(np.random.default_rng(seed))
    blocked_at = replay(traces, FilterConfig(t_ssim, t_hash, n_b, l_sp)).blocked_at
    sums = totals(traces, blocked_at)
    for g in range(4):
        members = [s for s in range(traces.sessions) if traces.group[s] == g]
        at = [int(blocked_at[s]) for s in members]
        assert sums.sessions[g] == len(members)
        assert sums.blocked[g] == sum(b > 0 for b in at)
        assert sums.queries[g] == sum(b or traces.budget[s] for b, s in zip(at, members, strict=True))
        leaked = [
            traces.leak[traces.offsets[s] + b - 2 if b else traces.offsets[s + 1] - 1]
            for b, s in zip(at, members, strict=True)
            if g == ATTACK
        ]
        assert sums.leak[g] == pytest.approx(sum(leaked), abs=1e-8 * (1 + len(leaked)))


def test_leak_at_block_is_that_after_the_last_answered_query():
    """A session blocked at its third query has two answers; in one that is never blocked, the last query counts."""
    image = IMAGES[4]
    traces = record([[image] * 4], 1, group=np.array([ATTACK]), leak=np.array([0.125, 0.25, 0.5, 1.0]))
    for l_sp, leaked in ((2, 0.25), (3, 0.5), (4, 1.0)):
        config = FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=1, l_sp=l_sp)
        assert totals(traces, replay(traces, config).blocked_at).leak.tolist() == [leaked, 0]


def test_a_pickled_copy_gives_the_same_replay():
    traces = random_traces(np.random.default_rng(5))
    config = FilterConfig(0.5, 0.3, 4, 6)
    expected = replay(traces, config)
    copy = pickle.loads(pickle.dumps(traces))
    assert recording(copy).prepared == {}  # prepared arrays are not pickled; the copy prepares its own, also read-only
    copied = replay(copy, config)
    assert not any(array.flags.writeable for array in recording(copy).prepared["ssim_global"])
    assert copied.blocked_at.tolist() == expected.blocked_at.tolist()
    assert copied.nearness.tolist() == expected.nearness.tolist()


def test_a_configuration_outside_the_recording_is_refused():
    traces = random_traces(np.random.default_rng(0), n_b_max=3)
    for config, message in (
        (FilterConfig(0.5, 0.5, 4, 1), "n_b = 4: must be at most 3, the recorded number"),
        (FilterConfig(0.5, 0.5, 3, 1, ssim="uniform"), "ssim = 'uniform': not in the recording, which contains global"),
        (FilterConfig(0.5, 0.5, 3, 1, hash_size=4), "hash_size = 4: must be 8, the hash size of the recording"),
    ):
        with pytest.raises(ValueError, match=r"no recording fits .*requires .*available: ssim-hash .*'n_b': 3"):
            replay(traces, config)
        with pytest.raises(ValueError, match=message):
            follow(recording(traces), config)
        with pytest.raises(ValueError, match=message):
            verdicts(recording(traces), 0, config)
    thresholds = FilterConfig(0.5, 0.5, 1, 1)
    with pytest.raises(ValueError, match="n_b_max = 4"):
        replay_swept(traces, thresholds, {"n_b": 4, "l_sp": 1})
    with pytest.raises(ValueError, match="l_sp_max = 0"):
        replay_swept(traces, thresholds, {"n_b": 3, "l_sp": 0})
    with pytest.raises(ValueError, match="per_match, per_query"):
        replace(thresholds, count_rule="per_day")


@pytest.mark.parametrize("leak", [[-0.1], [1.1], [np.nan]])
def test_leak_outside_the_unit_interval_is_refused(leak):
    traces = trace_set([np.full((1, 1), np.nan)], [np.array([0.5])], group=np.array([ATTACK]), leak=np.array(leak))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        totals(traces, replay(traces, FilterConfig(0.5, 0.5, 1, 1)).blocked_at)


def test_leak_of_an_attack_session_without_queries_is_refused():
    traces = trace_set([np.zeros((0, 1))], [np.zeros(0)], group=np.array([ATTACK]), leak=np.zeros(0))
    with pytest.raises(ValueError, match="session 0 has no query"):
        totals(traces, replay(traces, FilterConfig(0.5, 0.5, 1, 1)).blocked_at)
