"""The time of replay, against the live filter on the same images, and against the rates that the search requires."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from mifsim.defense import FilterConfig, QueryFilter, Verdict
from mifsim.defense.ssim_hash.replay import pairs_of
from tests.tuning.sample_traces import record, recording
from tuning.replay import replay, replay_swept
from tuning.tracedata import TraceSet

SESSIONS, QUERIES, N_B, L_SP = 600, 60, 10, 16

LIVE_CONFIGS = [FilterConfig(0.999, 1e-3, 10, 4), FilterConfig(0.9, 1e-2, 5, 3)]
"""The paper's third configuration, and a typical result of the search."""


def _streams() -> list[list[np.ndarray]]:
    """Return the images of all sessions: a third are attacks (noisy steps to an image), the others show images."""
    rng = np.random.default_rng(0)
    shapes = rng.random((200, 7, 7)).repeat(4, axis=1).repeat(4, axis=2)
    streams = []
    for s in range(SESSIONS):
        noise = rng.normal(size=(QUERIES, 28, 28))
        if s % 3 == 0:
            steps = np.linspace(0.05, 1, QUERIES)[:, None, None]
            images = steps * shapes[s % 200] + (0, 0.002, 0.02)[s // 3 % 3] * noise
        else:
            shown = rng.integers(0, 200, QUERIES)
            if s % 3 == 2:
                shown = shown.repeat(rng.integers(1, 4, QUERIES))[:QUERIES]
            images = shapes[shown] + 0.02 * noise
        streams.append(list(np.clip(images, 0, 1).astype(np.float32)))
    return streams


@pytest.fixture(scope="module")
def streams() -> list[list[np.ndarray]]:
    return _streams()


@pytest.fixture(scope="module")
def traces(streams) -> TraceSet:
    recorded = record(streams, N_B)
    pairs_of(recording(recorded), "global")
    return recorded


def random_configs(count: int) -> list[FilterConfig]:
    """Draw configurations like the search: 1 - t_ssim and t_hash log-uniform, n_b and l_sp log-integers."""
    rng = np.random.default_rng(1)
    return [
        FilterConfig(
            t_ssim=1 - 10 ** rng.uniform(-5, -0.3),
            t_hash=10 ** rng.uniform(-5, -0.5),
            n_b=int(np.exp(rng.uniform(0, np.log(N_B + 1)))),
            l_sp=int(np.exp(rng.uniform(0, np.log(L_SP + 1)))),
        )
        for _ in range(count)
    ]


def run_live_filters(streams: list[list[np.ndarray]]) -> list[list[int]]:
    """Return the query at which each session is blocked: the filter alone, without clients, a model or Ray."""
    blocked_at_by_config = []
    for config in LIVE_CONFIGS:
        blocked_at = []
        for stream in streams:
            detector = QueryFilter(config)
            verdicts = (detector.check(image) for image in stream)
            blocked_at.append(next((q for q, v in enumerate(verdicts, 1) if v is Verdict.UNSAFE), 0))
        blocked_at_by_config.append(blocked_at)
    return blocked_at_by_config


def at_a_rate_of(configs_per_second: float, configs: int):
    """Return a function that takes as long as `configs` configurations take at this rate."""
    return lambda: time.sleep(configs / configs_per_second)


def test_time_of_replay_against_the_live_filter(ratio, streams, traces):
    assert run_live_filters(streams) == [replay(traces, config).blocked_at.tolist() for config in LIVE_CONFIGS]
    ratio(
        f"replay of {SESSIONS} sessions against the live filter alone on their images",
        lambda: run_live_filters(streams),
        lambda: [replay(traces, config) for config in LIVE_CONFIGS],
        target=10_000,
    )


def test_rate_of_single_replays(ratio, traces):
    configs = random_configs(1000)
    ratio(
        "replay one by one, against 2,000 configurations a second",
        at_a_rate_of(2_000, len(configs)),
        lambda: [replay(traces, config) for config in configs],
        target=1,
    )


@pytest.mark.parametrize("rule", ["per_match", "per_query"])
def test_rate_of_replays_of_all_buffers_and_limits_at_once(ratio, traces, rule):
    configs = [replace(config, count_rule=rule) for config in random_configs(200)]

    def every_buffer_and_limit() -> None:
        for config in configs:
            replay_swept(traces, config, {"n_b": N_B, "l_sp": L_SP})

    ratio(
        f"replay of every buffer and limit at once ({rule}), against 200,000 configurations a second",
        at_a_rate_of(200_000, len(configs) * N_B * L_SP),
        every_buffer_and_limit,
        target=1,
    )
