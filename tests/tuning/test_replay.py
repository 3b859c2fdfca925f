"""Replay against the filter itself, query by query, and the two kernels against each other."""

import contextlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense import FilterConfig, InvalidImage, QueryFilter, Verdict
from mifsim.defense.similarity import FORMS
from mifsim.defense.ssim_hash.config import COUNT_RULES
from mifsim.defense.ssim_hash.replay import follow, recorded_sessions, verdicts
from tests.tuning.worlds import ATTACK, hashes_of, lags_of, random_traces, record, recording, similarity_of, trace_set
from tuning.replay import replay, replay_swept, totals
from tuning.tracedata import TraceSet

N_B_MAX = 5
SIDE = 11  # the Gaussian window's


def _hostile_images() -> list[object]:
    """Duplicates, constants, near-duplicates and strangers, as bytes and floats, and what is no image."""
    rng = np.random.default_rng(0)
    environment = rng.random((SIDE, SIDE), dtype=np.float32)
    other = rng.random((SIDE, SIDE), dtype=np.float32)
    noise = rng.normal(size=(SIDE, SIDE)).astype(np.float32)
    holed = environment.copy()
    holed[3, 4] = np.nan
    return [
        np.zeros((SIDE, SIDE), np.float32),
        np.ones((SIDE, SIDE), np.float32),
        np.full((SIDE, SIDE), 0.5),
        np.nextafter(np.full((SIDE, SIDE), 0.5, np.float32), np.float32(1)),
        environment,
        environment.copy(),
        environment.astype(np.float64),
        np.clip(environment + np.float32(1e-3) * noise, 0, 1),
        np.clip(environment + np.float32(0.1) * noise, 0, 1),
        np.clip(environment + np.float32(1e-3), 0, 1),
        1 - environment,
        environment[::-1],
        np.round(environment * 255).astype(np.uint8),
        other,
        (other > 0.5).astype(np.float32),
        holed,
        environment * np.float32(2),
        np.full((SIDE, SIDE), np.inf),
        environment[:5],
        environment[:, :, None],
        np.array([]),
        "no image",
    ]


IMAGES = _hostile_images()
streams = st.lists(st.integers(0, len(IMAGES) - 1).map(IMAGES.__getitem__), min_size=1, max_size=14)


def live(stream: list[object], config: FilterConfig) -> tuple[list[bool], list[int]]:
    detector, unsafe, count = QueryFilter(config), [], []
    for image in stream:
        try:
            unsafe.append(detector.check(image) is Verdict.UNSAFE)
        except InvalidImage:
            unsafe.append(False)
        count.append(detector.count)
    return unsafe, count


def assert_replays(traces: TraceSet, stream: list[object], config: FilterConfig) -> None:
    unsafe, count = live(stream, config)
    replayed_unsafe, replayed_count = verdicts(traces.recorded(config), 0, config)
    assert replayed_unsafe.tolist() == unsafe
    assert replayed_count.tolist() == count
    blocked_at, final = follow(traces.recorded(config), config)
    assert blocked_at.tolist() == [unsafe.index(True) + 1 if any(unsafe) else 0]
    assert final.tolist() == [count[-1]]
    outcome = replay(traces, config)
    assert outcome.blocked_at.tolist() == blocked_at.tolist()
    near = [(max(count) + 1) / config.l_sp]
    if config.repeats:
        near.append((repeats_in(stream, config) + 1) / config.repeats)
    assert outcome.nearness.tolist() == [min(1.0, max(near))]


def repeats_in(stream: list[object], config: FilterConfig) -> int:
    """Return the number of exact repeats that a live filter counts."""
    detector = QueryFilter(config)
    for image in stream:
        with contextlib.suppress(InvalidImage):
            detector.check(image)
    return detector.repeat_count


additions = st.fixed_dictionaries(
    {},
    optional={
        "leak": st.sampled_from([0.01, 0.1, 0.25, 0.3, 0.99]) | st.floats(1e-6, 0.99),
        "repeats": st.integers(1, 8),
    },
)


@given(streams, additions, st.data())
@settings(max_examples=400, deadline=None)
def test_replay_is_the_filter_query_by_query(stream, added, data):
    """Thresholds lie on what was observed, a last bit beside it, or anywhere."""
    form = data.draw(st.sampled_from(FORMS))
    traces = record([stream], N_B_MAX, [form], repeats="repeats" in added or data.draw(st.booleans()))
    seen = similarity_of(traces, form)
    similarities = [float(s) for s in np.unique(seen[~np.isnan(seen)])]
    hashes = hashes_of(traces)[traces.valid]
    gaps = np.unique(np.abs(hashes[:, None] - hashes[None, :]))
    beside = [float(np.nextafter(s, np.float64(side))) for s in similarities for side in (-2, 2)]
    beside_gaps = [float(g) for gap in gaps for g in (gap, np.nextafter(gap, 2), np.nextafter(gap, -1))]
    t_ssim = st.sampled_from([s for s in (*similarities, *beside) if -1 <= s <= 1] or [0.5])
    t_hash = st.sampled_from([g for g in beside_gaps if 0 < g <= 1] or [0.5])
    config = FilterConfig(
        t_ssim=data.draw(t_ssim | st.floats(-1, 1)),
        t_hash=data.draw(t_hash | st.floats(1e-6, 1)),
        n_b=data.draw(st.integers(1, N_B_MAX)),
        l_sp=data.draw(st.integers(1, 12)),
        ssim=form,
        count_rule=data.draw(st.sampled_from(COUNT_RULES)),
        **added,
    )
    assert_replays(traces, stream, config)


@pytest.mark.parametrize("rule", COUNT_RULES)
def test_a_threshold_met_exactly_is_no_match(rule):
    """Both comparisons are strict: nothing matches on the observed values, a last bit beside them it does."""
    stream = [IMAGES[4], IMAGES[8]]
    traces = record([stream], 1)
    similarity = float(similarity_of(traces)[1, 0])
    gap = abs(hashes_of(traces)[1] - hashes_of(traces)[0])
    below, above = float(np.nextafter(similarity, -1)), float(np.nextafter(gap, 1))
    for t_ssim, t_hash, blocked_at in ((similarity, above, 0), (below, gap, 0), (below, above, 2)):
        config = FilterConfig(t_ssim, t_hash, n_b=1, l_sp=1, count_rule=rule)
        assert replay(traces, config).blocked_at.tolist() == [blocked_at]
        assert_replays(traces, stream, config)


def test_hand_worked_case():
    """One image, five times, with a bad one in between: matches 1, 2, 2 by Algorithm 2 with a buffer of 2."""
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


def literal(traces: TraceSet, session: int, config: FilterConfig) -> tuple[int, float]:
    """Algorithm 2 over a recorded trace, in plain Python: the query blocked at (0: never) and the count."""
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


seeds = st.integers(0, 2**32 - 1)
coarse_t_ssim = st.integers(-1, 11).map(lambda tenths: float(np.clip(np.float32(tenths / 10), -1, 1)))
coarse_t_hash = st.integers(1, 21).map(lambda twentieths: min(twentieths / 20, 1.0))


rules = st.sampled_from(COUNT_RULES)


@given(seeds, coarse_t_ssim, coarse_t_hash, st.integers(1, 7), st.integers(1, 20), rules, additions)
@settings(max_examples=200, deadline=None)
def test_replay_of_many_sessions_is_the_algorithm_to_the_letter(seed, t_ssim, t_hash, n_b, l_sp, rule, added):
    traces = random_traces(np.random.default_rng(seed), repeats="repeats" in added)
    config = FilterConfig(t_ssim, t_hash, n_b, l_sp, count_rule=rule, **added)
    found, count = follow(recording(traces), config)
    expected = [literal(traces, s, config) for s in range(traces.sessions)]
    assert list(zip(found.tolist(), count.tolist(), strict=True)) == expected
    assert replay(traces, config).blocked_at.tolist() == found.tolist()
    for s, (blocked_at, final) in enumerate(expected):
        unsafe, count = verdicts(recording(traces), s, config)
        assert unsafe.tolist() == [0 < blocked_at <= q for q in range(1, len(unsafe) + 1)]
        assert not len(count) or count[-1] == final


@given(seeds, coarse_t_ssim, coarse_t_hash, st.integers(1, 7), st.integers(1, 20), rules, additions)
@settings(max_examples=100, deadline=None)
def test_all_at_once_is_replay_of_every_buffer_and_limit(seed, t_ssim, t_hash, n_b_max, l_sp_max, rule, added):
    """Every session its own group, so that the sums are the outcomes themselves."""
    made = random_traces(np.random.default_rng(seed), sessions=12, repeats="repeats" in added)
    session_of = np.arange(made.sessions)
    traces = replace(made, group=session_of, groups=tuple(map(str, session_of)))
    thresholds = FilterConfig(t_ssim, t_hash, 1, 1, count_rule=rule, **added)
    everything = replay_swept(traces, thresholds, {"n_b": n_b_max, "l_sp": l_sp_max})
    assert everything.blocked.shape == (made.sessions, n_b_max, l_sp_max)
    for n_b in range(1, n_b_max + 1):
        for l_sp in range(1, l_sp_max + 1):
            config = replace(thresholds, n_b=n_b, l_sp=l_sp)
            blocked_at = replay(traces, config).blocked_at
            place = (slice(None), n_b - 1, l_sp - 1)
            assert everything.blocked[place].tolist() == (blocked_at > 0).tolist()
            assert everything.queries[place].tolist() == np.where(blocked_at, blocked_at, traces.budget).tolist()
            assert everything.leak[place].tolist() == totals(traces, blocked_at).leak.tolist()


@given(seeds, coarse_t_ssim, coarse_t_hash, rules)
@settings(max_examples=30, deadline=None)
def test_repeats_that_never_come_change_nothing(seed, t_ssim, t_hash, rule):
    """Sessions without a repeat: both kernels that replay all buffer sizes and limits find the same sums."""
    plain = random_traces(np.random.default_rng(seed))
    none = np.zeros(len(plain.valid), np.int64)
    spec, made = recorded_sessions(plain.offsets, {"global": similarity_of(plain)}, hashes_of(plain), 8, none)
    traces = replace(plain, recordings={spec: made})
    thresholds, most = FilterConfig(t_ssim, t_hash, 1, 1, count_rule=rule), {"n_b": 7, "l_sp": 9}
    one = replay_swept(plain, thresholds, most)
    other = replay_swept(traces, replace(thresholds, repeats=1), most)
    for name in ("sessions", "blocked", "queries", "leak"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()


def test_hand_worked_case_with_a_leak():
    """One image, four times, a stranger, and the image again, with an invalid one in between: quarters are exact."""
    image, stranger = IMAGES[4], IMAGES[0]
    stream = [image, image, "no image", image, image, stranger, image]
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
    assert_replays(traces, stream, config)


def test_hand_worked_case_with_repeats():
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
    assert_replays(traces, stream, config)


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


def test_leak_at_block_is_what_the_query_before_the_block_left():
    """Blocked at the third query: two were answered. Never blocked: the last one counts."""
    image = IMAGES[4]
    traces = record([[image] * 4], 1, group=np.array([ATTACK]), leak=np.array([0.125, 0.25, 0.5, 1.0]))
    for l_sp, leaked in ((2, 0.25), (3, 0.5), (4, 1.0)):
        config = FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=1, l_sp=l_sp)
        assert totals(traces, replay(traces, config).blocked_at).leak.tolist() == [leaked, 0]


def test_a_copy_in_another_process_replays_alike():
    traces = random_traces(np.random.default_rng(5))
    config = FilterConfig(0.5, 0.3, 4, 6)
    expected = replay(traces, config)
    copy = pickle.loads(pickle.dumps(traces))
    assert recording(copy).prepared == {}  # what was prepared does not travel: it is prepared again, and read-only too
    copied = replay(copy, config)
    assert not any(array.flags.writeable for array in recording(copy).prepared["ssim_global"])
    assert copied.blocked_at.tolist() == expected.blocked_at.tolist()
    assert copied.nearness.tolist() == expected.nearness.tolist()


def test_what_the_traces_do_not_hold_is_refused():
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
    apart = FilterConfig(0.5, 0.5, 3, 1, repeats=2)
    for refused in (follow, lambda made, config: verdicts(made, 0, config)):
        with pytest.raises(ValueError, match="repeats: not in the recording, which does not contain exact repeats"):
            refused(recording(traces), apart)
    with pytest.raises(ValueError, match=r"no recording fits .*requires .*'repeats': True"):
        replay(traces, apart)
    thresholds = FilterConfig(0.5, 0.5, 1, 1)
    with pytest.raises(ValueError, match="n_b_max = 4"):
        replay_swept(traces, thresholds, {"n_b": 4, "l_sp": 1})
    with pytest.raises(ValueError, match="l_sp_max = 0"):
        replay_swept(traces, thresholds, {"n_b": 3, "l_sp": 0})
    with pytest.raises(ValueError, match="per_match, per_query"):
        replace(thresholds, count_rule="per_day")


@pytest.mark.parametrize("leak", [[-0.1], [1.1], [np.nan]])
def test_leak_is_a_share(leak):
    traces = trace_set([np.full((1, 1), np.nan)], [np.array([0.5])], group=np.array([ATTACK]), leak=np.array(leak))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        totals(traces, replay(traces, FilterConfig(0.5, 0.5, 1, 1)).blocked_at)


def test_leak_of_an_attack_without_a_query_is_unknown():
    traces = trace_set([np.zeros((0, 1))], [np.zeros(0)], group=np.array([ATTACK]), leak=np.zeros(0))
    with pytest.raises(ValueError, match="session 0 has no query"):
        totals(traces, replay(traces, FilterConfig(0.5, 0.5, 1, 1)).blocked_at)
