"""Streams of images for tests of the replay of `ssim-hash`, and the comparison of the replay with the filter."""

import contextlib

import numpy as np
from hypothesis import strategies as st

from mifsim.defense import FilterConfig, InvalidImage, QueryFilter, Verdict
from mifsim.defense.ssim_hash.config import COUNT_RULES
from mifsim.defense.ssim_hash.replay import follow, verdicts
from tuning.replay import replay
from tuning.tracedata import TraceSet

N_B_MAX = 5
SIDE = 11  # that of the Gaussian window


def _hostile_images() -> list[object]:
    """Return duplicates, constants, near-duplicates and unrelated images, as bytes and floats, and invalid images."""
    rng = np.random.default_rng(0)
    base = rng.random((SIDE, SIDE), dtype=np.float32)
    other = rng.random((SIDE, SIDE), dtype=np.float32)
    noise = rng.normal(size=(SIDE, SIDE)).astype(np.float32)
    with_nan = base.copy()
    with_nan[3, 4] = np.nan
    return [
        np.zeros((SIDE, SIDE), np.float32),
        np.ones((SIDE, SIDE), np.float32),
        np.full((SIDE, SIDE), 0.5),
        np.nextafter(np.full((SIDE, SIDE), 0.5, np.float32), np.float32(1)),
        base,
        base.copy(),
        base.astype(np.float64),
        np.clip(base + np.float32(1e-3) * noise, 0, 1),
        np.clip(base + np.float32(0.1) * noise, 0, 1),
        np.clip(base + np.float32(1e-3), 0, 1),
        1 - base,
        base[::-1],
        np.round(base * 255).astype(np.uint8),
        other,
        (other > 0.5).astype(np.float32),
        with_nan,
        base * np.float32(2),
        np.full((SIDE, SIDE), np.inf),
        base[:5],
        base[:, :, None],
        np.array([]),
        "no image",
    ]


IMAGES = _hostile_images()
streams = st.lists(st.integers(0, len(IMAGES) - 1).map(IMAGES.__getitem__), min_size=1, max_size=14)


def run_filter(stream: list[object], config: FilterConfig) -> tuple[list[bool], list[int]]:
    """Run the filter on a stream; return, for each query, whether it is unsafe, and the count."""
    detector, unsafe, count = QueryFilter(config), [], []
    for image in stream:
        try:
            unsafe.append(detector.check(image) is Verdict.UNSAFE)
        except InvalidImage:
            unsafe.append(False)
        count.append(detector.count)
    return unsafe, count


def assert_replay_matches_the_filter(traces: TraceSet, stream: list[object], config: FilterConfig) -> None:
    unsafe, count = run_filter(stream, config)
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
    """Return the number of exact repeats that a live filter counts in a stream."""
    detector = QueryFilter(config)
    for image in stream:
        with contextlib.suppress(InvalidImage):
            detector.check(image)
    return detector.repeat_count


seeds = st.integers(0, 2**32 - 1)
coarse_t_ssim = st.integers(-1, 11).map(lambda tenths: float(np.clip(np.float32(tenths / 10), -1, 1)))
coarse_t_hash = st.integers(1, 21).map(lambda twentieths: min(twentieths / 20, 1.0))
rules = st.sampled_from(COUNT_RULES)
additions = st.fixed_dictionaries(
    {},
    optional={
        "leak": st.sampled_from([0.01, 0.1, 0.25, 0.3, 0.99]) | st.floats(1e-6, 0.99),
        "repeats": st.integers(1, 8),
    },
)
